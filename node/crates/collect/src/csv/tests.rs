use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn decode(options: CsvOptions, text: &str) -> (Vec<Collected>, Counts) {
    let mut decoder = CsvDecoder::new(options);
    let mut out = Vec::new();
    for line in text.split_terminator('\n') {
        decoder.handle_line(line.as_bytes(), &mut out);
    }
    decoder.handle_end(&mut out);
    assert_eq!(decoder.held_lines(), 0);
    (out, decoder.counts().clone())
}

fn value(record: &Collected) -> Value {
    serde_json::from_slice(&record.value).unwrap()
}

/// Numbers stay digit for digit, what is missing is null, the rest is text; the time is found.
#[test]
fn rows_become_objects() {
    let text = "\u{feff}id,timestamp,value,note\n\
        007,2013-12-02 21:15:00,74.93588199999998,\"a, \"\"b\"\"\"\n\
        8,2013-12-02T21:20:00+01:00,NA,\n\n";
    let options = CsvOptions { key: Some("id".to_owned()), ..CsvOptions::default() };
    let (records, counts) = decode(options, text);
    assert_eq!(
        std::str::from_utf8(&records[0].value).unwrap(),
        concat!(
            r#"{"id":"007","timestamp":"2013-12-02 21:15:00","#,
            r#""value":74.93588199999998,"note":"a, \"b\""}"#,
        )
    );
    assert_eq!(records[0].key.as_deref(), Some(&b"007"[..]));
    assert_eq!(records[0].timestamp_ms, Some(1_386_018_900_000));
    assert_eq!(records[1].timestamp_ms, Some(1_386_015_600_000));
    assert_eq!(value(&records[1])["value"], Value::Null);
    assert_eq!(value(&records[1])["note"], Value::Null);
    assert_eq!((counts.lines, counts.records, counts.skipped), (4, 2, 1));
}

/// The time may be spread over columns, and the zone is the caller's to say.
#[test]
fn time_in_parts() {
    let text = "year;month;day;hour;v\n2013;3;1;23;1\n2013;2;30;0;1\n2013;3;1;x;1\n2013;3;1;24;1\n";
    let options = CsvOptions {
        delimiter: b';',
        time: CsvTime::Parts { utc_offset_min: 480 },
        ..CsvOptions::default()
    };
    let (records, counts) = decode(options, text);
    assert_eq!(records[0].timestamp_ms, Some(1_362_150_000_000));
    assert_eq!(counts.reason("csv-time"), 3);
    assert_eq!(records[2].header("detail"), Some(&b"\"x\" is no number"[..]));
}

/// Bad rows are set aside whole, and the rows around them are not harmed.
#[test]
fn bad_rows() {
    let text = "a,b\n1,2\n1\n1,2,3\n\"x\ny\",2\n5,\"open\n6,7\n8,9";
    let (records, counts) = decode(CsvOptions::default(), text);
    let good: Vec<Value> = records.iter().filter(|r| !r.is_dead_letter()).map(value).collect();
    assert_eq!(
        good,
        [
            json!({"a": 1, "b": 2}),
            json!({"a": "x\ny", "b": 2}),
            json!({"a": 6, "b": 7}),
            json!({"a": 8, "b": 9}),
        ]
    );
    assert_eq!((counts.reason("csv-columns"), counts.reason("csv-quote")), (2, 1));
    let letter = records.iter().find(|r| r.header("reason") == Some(b"csv-quote")).unwrap();
    assert_eq!(&letter.value[..], b"5,\"open");
}

/// A quote left open at the top of a long file costs one row, and the work stays bounded.
#[test]
fn an_open_quote_is_given_up() {
    let mut text = "a,b\n1,\"open\n".to_owned();
    for index in 0..3_000 {
        text.push_str(&format!("{index},2\n"));
    }
    let (records, counts) = decode(CsvOptions::default(), &text);
    assert_eq!((counts.records, counts.dead_letters), (3_000, 1));
    assert_eq!(value(records.last().unwrap()), json!({"a": 2_999, "b": 2}));
}

/// Columns that the options name but the file lacks are said; odd headers still give objects.
#[test]
fn headers() {
    let options = CsvOptions { key: Some("id".to_owned()), ..CsvOptions::default() };
    let (records, counts) = decode(options, "a,b\n1,2\n");
    assert_eq!(counts.reason("csv-header"), 1);
    assert_eq!(records[1].key, None);

    let (records, _) = decode(CsvOptions::default(), "a,,a,a_2\n1,2,3,4\n");
    assert_eq!(&records[0].value[..], br#"{"a":1,"column_2":2,"a_2":3,"a_2_2":4}"#);

    let names = vec!["x".to_owned(), "ts".to_owned()];
    let options = CsvOptions { header: Some(names), ..CsvOptions::default() };
    let (records, _) = decode(options, "1,1482180000\n");
    assert_eq!(records[0].timestamp_ms, Some(1_482_180_000_000));

    let many = vec!["x"; COLUMNS_MAX + 1].join(",");
    let (_, counts) = decode(CsvOptions::default(), &format!("{many}\na,b\n1,2\n"));
    assert_eq!((counts.reason("csv-columns"), counts.records), (1, 1));
}

/// After a resume the header comes from the first line of the file.
#[test]
fn resume_learns_the_header() {
    let mut decoder = CsvDecoder::new(CsvOptions::default());
    let mut out = Vec::new();
    decoder.handle_begin(Some(b"a,b"));
    decoder.handle_line(b"1,2", &mut out);
    decoder.handle_begin(None);
    decoder.handle_line(b"c", &mut out);
    decoder.handle_line(b"3", &mut out);
    let values: Vec<Value> = out.iter().map(value).collect();
    assert_eq!(values, [json!({"a": 1, "b": 2}), json!({"c": 3})]);
}

proptest! {
    /// What is written by the rules is read back field for field.
    #[test]
    fn round_trip(
        rows in proptest::collection::vec(proptest::array::uniform3("[a-z\",;\n ]{0,8}"), 1..20),
    ) {
        let quote = |field: &String| format!("\"{}\"", field.replace('"', "\"\""));
        let mut text = "x,y,z\n".to_owned();
        for row in &rows {
            text.push_str(&row.iter().map(quote).collect::<Vec<_>>().join(","));
            text.push('\n');
        }
        let options = CsvOptions { nulls: Vec::new(), ..CsvOptions::default() };
        let (records, _) = decode(options, &text);
        let read: Vec<[String; 3]> = records.iter().map(|record| {
            let row = value(record);
            ["x", "y", "z"].map(|name| row[name].as_str().unwrap().to_owned())
        }).collect();
        prop_assert_eq!(read, rows);
    }

    /// The number test agrees with a JSON parser.
    #[test]
    fn numbers(text in "[-+0-9.eE]{0,8}") {
        let parses = serde_json::from_str::<serde_json::Number>(&text).is_ok();
        let too_large = text.contains(['e', 'E']);
        prop_assert!(is_json_number(text.as_bytes()) == parses || too_large, "{}", text);
    }
}

/// Rows of any width and length are read whole, also where they just fill a buffer.
#[test]
fn buffer_edges() {
    for width in (1..10).chain(60..70).chain(126..131) {
        let row = vec!["1"; width].join(",");
        let (records, counts) = decode(CsvOptions::default(), &format!("{row}\n{row}\n"));
        assert_eq!((counts.records, counts.dead_letters), (1, 0), "{width} columns");
        assert_eq!(value(&records[0]).as_object().unwrap().len(), width);
    }
    for length in (1_020..1_030).chain(2_044..2_052) {
        let field = "x".repeat(length);
        let (records, _) = decode(CsvOptions::default(), &format!("a\n{field}\n{field}\n"));
        assert_eq!(value(&records[1])["a"].as_str().unwrap().len(), length);
    }
}
