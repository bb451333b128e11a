//! Keeps records whose value contains a text, or does not contain it.
//!
//! ```text
//! weir module test text_filter.wasm --input app.log --param text=ERROR
//! ```

use weir_guest::prelude::*;

weir_guest::params! {
    /// What a deployment is told.
    pub struct Params {
        /// The text to look for.
        text: String,
        /// Keep the records without the text instead.
        invert: bool = false,
    }
}

struct TextFilter {
    text: Vec<u8>,
    invert: bool,
}

impl Filter for TextFilter {
    type Params = Params;
    const ABOUT: &'static str = "Keeps records whose value contains a text.";

    fn start(params: Params) -> Result<Self> {
        weir_guest::ensure!(!params.text.is_empty(), "the text is empty");
        Ok(TextFilter { text: params.text.into_bytes(), invert: params.invert })
    }

    fn keep(&mut self, record: &Record<'_>) -> Result<bool> {
        let value = record.value().unwrap_or_default();
        Ok(contains(value, &self.text) != self.invert)
    }
}

/// Looks for the first byte first: most places do not have it.
fn contains(value: &[u8], text: &[u8]) -> bool {
    let mut rest = value;
    while let Some(at) = rest.iter().position(|byte| *byte == text[0]) {
        rest = &rest[at..];
        if rest.starts_with(text) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

weir_guest::export_filter!(TextFilter);
