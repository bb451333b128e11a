//! Bytes of this version, kept so that later versions still read them. Never change one: a new
//! version of the format adds its own.

fn hex(_: &[u8]) -> String { String::new() }

#[test]
fn print() {
    use crate::support::*;
    use weir_core::record::*;
    for way in Compression::ALL {
        let mut records = sample();
        records[2].value = Some("golden ".repeat(30).into());
        let mut builder = BatchBuilder::new(way);
        for record in &records { builder.push_record(record).unwrap(); }
        let bytes = builder.build(weir_core::ProducerId(4711), 2, 100).unwrap();
        let text: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        println!("{way} {text}");
    }
    let _ = hex(b"");
}
