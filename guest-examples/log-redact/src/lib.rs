//! Parses log lines and blanks out what must not leave the site.
//!
//! - IPv4 addresses keep their first octets (`keep-octets`): `203.0.113.7` becomes `203.0.x.x`;
//! - mail addresses keep their domain: `***@example.org`;
//! - what follows `password=`, `token=`, `secret=`, `key=` or `Bearer ` becomes `***`;
//! - long words of letters and digits, as keys and session ids are, become `***`.
//!
//! Lines in the Common Log Format become JSON (`client`, `time`, `method`, `path`, `status`,
//! `bytes`), others become `{"message": …}`; with `parse=false`, lines stay lines.
//!
//! ```text
//! weir module test log_redact.wasm --input access.log --param keep-octets=1
//! ```

use serde::Serialize;
use weir_guest::prelude::*;

weir_guest::params! {
    /// What a deployment is told.
    pub struct Params {
        /// Octets of an address that are kept, 0 to 4.
        keep_octets: u32 = 2,
        /// Letters and digits from which on a word counts as a secret.
        secret_length: u32 = 24,
        /// Write JSON.
        parse: bool = true,
    }
}

struct Redact {
    params: Params,
    line: String,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Access {
        client: &'a str,
        time: &'a str,
        method: &'a str,
        path: &'a str,
        status: u16,
        bytes: u64,
    },
    Other {
        message: &'a str,
    },
}

impl Transform for Redact {
    type Params = Params;
    const ABOUT: &'static str = "Parses log lines and blanks out addresses, mail and secrets.";
    const COLUMNS: Columns = Columns::VALUES;

    fn start(params: Params) -> Result<Self> {
        weir_guest::ensure!(params.keep_octets <= 4, "an address has 4 octets");
        weir_guest::ensure!(params.secret_length >= 8, "secret-length below 8 hides plain words");
        Ok(Redact { params, line: String::new() })
    }

    fn process(&mut self, record: &Record<'_>, cx: &mut Context<'_>) -> Result<()> {
        self.line.clear();
        // A log may hold anything; what is no text is marked and goes on.
        redact(&String::from_utf8_lossy(record.bytes()?), &self.params, &mut self.line);
        if !self.params.parse {
            cx.send(&self.line);
            return Ok(());
        }
        let parsed = parse(&self.line).unwrap_or(Line::Other { message: &self.line });
        cx.output().write(|to| serde_json::to_writer(to, &parsed))?.send();
        Ok(())
    }
}

/// Common Log Format: `client identity user [time] "method path protocol" status bytes`.
fn parse(line: &str) -> Option<Line<'_>> {
    let (client, rest) = line.split_once(' ')?;
    let (_, rest) = rest.split_once('[')?;
    let (time, rest) = rest.split_once("] \"")?;
    let (request, rest) = rest.split_once("\" ")?;
    let mut request = request.split(' ');
    let (method, path) = (request.next()?, request.next()?);
    let mut rest = rest.split(' ');
    let status = rest.next()?.parse().ok()?;
    let bytes = rest.next().and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
    Some(Line::Access { client, time, method, path, status, bytes })
}

/// Copies `line` to `out`, word by word, with secrets blanked out.
fn redact(line: &str, params: &Params, out: &mut String) {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '@' | '+');
    let mut rest = line;
    let mut secret_follows = false;
    while !rest.is_empty() {
        let between = rest.find(is_word).unwrap_or(rest.len());
        out.push_str(&rest[..between]);
        rest = &rest[between..];
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        rest = behind;
        if word.is_empty() {
            continue;
        }
        if secret_follows {
            out.push_str("***");
        } else {
            push_word(word, params, out);
        }
        let named = ["password", "passwd", "token", "secret", "key", "api_key"];
        let names_secret = named.iter().any(|name| word.eq_ignore_ascii_case(name));
        secret_follows = (names_secret && behind.starts_with(['=', ':']))
            || (word.eq_ignore_ascii_case("bearer") && behind.starts_with(' '));
    }
}

fn push_word(word: &str, params: &Params, out: &mut String) {
    if let Some((_, domain)) = word.split_once('@').filter(|(name, _)| !name.is_empty()) {
        out.push_str("***@");
        out.push_str(domain);
        return;
    }
    // A full stop at the end belongs to the sentence.
    let bare = word.trim_end_matches('.');
    let octets: Vec<&str> = bare.split('.').collect();
    let is_octet = |octet: &&str| octet.len() <= 3 && octet.parse::<u8>().is_ok();
    if octets.len() == 4 && octets.iter().all(is_octet) {
        for (n, octet) in octets.iter().enumerate() {
            let dot = if n == 0 { "" } else { "." };
            let kept = if n < params.keep_octets as usize { octet } else { "x" };
            out.extend([dot, kept]);
        }
        out.push_str(&word[bare.len()..]);
        return;
    }
    let long = word.len() >= params.secret_length as usize;
    let plain = word.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let mixed = word.bytes().any(|byte| byte.is_ascii_digit());
    out.push_str(if long && plain && mixed { "***" } else { word });
}

weir_guest::export_transform!(Redact);
