//! Posts an alert to a web server when a number passes a threshold.
//!
//! ```text
//! weir consumer create alerts --module webhook-alert@1.0.0 --from readings \
//!     --param url=https://example.com/hook --param field=celsius --param above=80 \
//!     --allow-http example.com --on-error retry
//! ```
//!
//! For a record `{"celsius":81.5}` it posts
//!
//! ```text
//! {"id":"readings/0/17","key":"boiler-2","field":"celsius","value":81.5,"above":80.0,
//!  "timestamp":1732275000000}
//! ```
//!
//! and says the id in the header `idempotency-key`, too. A post that fails, or that the server does
//! not answer with 200 to 299, fails the record: the position stays before it, and `--on-error`
//! decides. So each alert arrives at least once, perhaps twice; a receiver that remembers ids
//! counts each once.
//!
//! Records that are no JSON object, or without the number, have nothing to alert about and are
//! passed over.

use serde_json::{Map, Value, json};
use weir_guest::prelude::*;

weir_guest::params! {
    /// What a deployment is told.
    pub struct Params {
        /// Where alerts are posted to; its host must be granted with --allow-http.
        url: String,
        /// The field that is looked at.
        field: String,
        /// The number that the field must be above.
        above: f64,
    }
}

struct WebhookAlert(Params);

impl Consumer for WebhookAlert {
    type Params = Params;
    const ABOUT: &'static str = "Posts an alert when a number passes a threshold.";
    const COLUMNS: Columns = Columns::TIMESTAMPS.and(Columns::KEYS).and(Columns::VALUES);

    fn start(params: Params) -> Result<Self> {
        let web = params.url.starts_with("http://") || params.url.starts_with("https://");
        weir_guest::ensure!(web, "url must begin with http:// or https://");
        Ok(WebhookAlert(params))
    }

    fn consume(&mut self, record: &Record<'_>, cx: &mut Context<'_>) -> Result<()> {
        let Params { url, field, above } = &self.0;
        let object: Option<Map<String, Value>> =
            record.value().and_then(|value| serde_json::from_slice(value).ok());
        let value = object.as_ref().and_then(|object| object.get(field)).and_then(Value::as_f64);
        let Some(value) = value.filter(|value| value > above) else { return Ok(()) };
        let id = cx.record_id(record);
        let alert = json!({
            "id": id,
            "key": record.key().map(String::from_utf8_lossy),
            "field": field,
            "value": value,
            "above": above,
            "timestamp": record.timestamp(),
        });
        Http::post(url)
            .header("content-type", "application/json")
            .header("idempotency-key", &id)
            .body(alert.to_string())
            .send()?
            .ok()?;
        Ok(())
    }
}

weir_guest::export_consumer!(WebhookAlert);
