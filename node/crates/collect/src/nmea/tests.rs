use super::*;
use serde_json::Value;

/// A sentence with its checksum.
fn sentence(body: &str) -> String {
    format!("${body}*{:02X}", checksum(body.as_bytes()))
}

fn rmc(time: &str, date: &str) -> String {
    sentence(&format!("GPRMC,{time},A,4800.0,N,01100.0,E,10.0,90.0,{date},,"))
}

fn gga(time: &str, satellites: u32) -> String {
    sentence(&format!("GPGGA,{time},4800.0,N,01100.0,E,1,{satellites},0.9,100.0,M,40.0,M,,"))
}

struct Driver {
    decoder: NmeaDecoder,
    out: Vec<Collected>,
}

impl Driver {
    fn new(options: NmeaOptions) -> Self {
        Self { decoder: NmeaDecoder::new(options), out: Vec::new() }
    }

    fn lines(&mut self, lines: &[String]) -> &mut Self {
        for line in lines {
            self.decoder.handle_line(line.as_bytes(), &mut self.out);
        }
        self
    }

    fn idle(&mut self) -> &mut Self {
        self.decoder.handle_idle(&mut self.out);
        self
    }

    fn end(&mut self) -> Vec<Value> {
        self.decoder.handle_end(&mut self.out);
        self.positions()
    }

    fn positions(&self) -> Vec<Value> {
        let is_position = |r: &&Collected| r.header("kind") == Some(b"position");
        let parse = |r: &Collected| serde_json::from_slice(&r.value).unwrap();
        self.out.iter().filter(is_position).map(parse).collect()
    }
}

/// Everything that the sentences of an epoch say is in its one record.
#[test]
fn one_epoch_one_record() {
    let mut driver = Driver::new(NmeaOptions::default());
    driver.lines(&[
        gga("120000.00", 4),
        sentence("GPGSA,A,3,01,02,03,04,05,,,,,,,,2.0,1.0,1.7"),
        sentence("GLGSA,A,3,65,66,,,,,,,,,,,2.0,1.0,1.7"),
        sentence("GPGSV,1,1,08"),
        sentence("GLGSV,1,1,03"),
        sentence("GPVTG,91.0,T,,M,11.0,N,20.4,K,A"),
        rmc("120000.00", "010120"),
    ]);
    let positions = driver.end();
    assert_eq!(
        positions,
        [serde_json::json!({
            "device": "gps", "time": "2020-01-01T12:00:00.000Z", "fix": "gps",
            "lat": 48.0, "lon": 11.0, "alt_m": 100.0, "geoid_m": 40.0,
            "speed_mps": 5.144444, "course_deg": 90.0, "quality": 1, "dimensions": 3,
            "satellites_used": 7, "satellites_in_view": 11,
            "pdop": 2.0, "hdop": 0.9, "vdop": 1.7,
        })]
    );
    assert_eq!(driver.out[0].timestamp_ms, Some(1_577_880_000_000));
    assert_eq!(driver.out[0].key.as_deref(), Some(&b"gps"[..]));
}

/// Only the time of day tells epochs apart: a date that jumps back 20 years splits none, and one
/// that is missing is inherited, past midnight too.
#[test]
fn dates_do_not_split_epochs() {
    let mut driver = Driver::new(NmeaOptions::default());
    driver.lines(&[
        rmc("235959.00", "070419"),
        gga("235959.00", 4),
        sentence("GPZDA,235959.00,22,08,1999,,"),
        rmc("000000.00", "220899"),
        gga("000000.00", 4),
        gga("000001.00", 4),
        rmc("235959.50", ""),
        gga("000000.25", 4),
    ]);
    let times: Vec<String> =
        driver.end().iter().map(|p| p["time"].as_str().unwrap().to_owned()).collect();
    assert_eq!(
        times,
        [
            "1999-08-22T23:59:59.000Z",
            "1999-08-22T00:00:00.000Z",
            "1999-08-22T00:00:01.000Z",
            "1999-08-22T23:59:59.500Z",
            "1999-08-23T00:00:00.250Z",
        ]
    );
}

/// A receiver that fell back 1,024 weeks is put right if the caller says how old it may be.
#[test]
fn week_rollover() {
    let not_before_ms = Some(1_546_300_800_000);
    let mut driver = Driver::new(NmeaOptions { not_before_ms, ..NmeaOptions::default() });
    driver.lines(&[rmc("120000", "220899"), rmc("120001", "080419")]);
    let positions = driver.end();
    assert_eq!(positions[0]["time"], "2019-04-07T12:00:00.000Z");
    assert_eq!(positions[0]["rollovers"], 1);
    assert_eq!(positions[1]["time"], "2019-04-08T12:00:01.000Z");
    assert!(positions[1].get("rollovers").is_none());
}

/// Silence ends an epoch at once; what comes late completes it under the same time.
#[test]
fn silence_ends_and_lateness_reopens() {
    let mut driver = Driver::new(NmeaOptions::default());
    driver.lines(&[rmc("120000", "010120")]).idle();
    assert_eq!(driver.positions().len(), 1);
    driver.lines(&[sentence("GPGSV,1,1,05"), gga("120000", 6)]).idle().idle();
    let positions = driver.positions();
    assert_eq!(positions.len(), 2);
    assert_eq!(positions[1]["time"], positions[0]["time"]);
    assert_eq!(positions[1]["speed_mps"], positions[0]["speed_mps"]);
    assert_eq!(
        (&positions[1]["satellites_used"], &positions[1]["satellites_in_view"]),
        (&Value::from(6), &Value::from(5))
    );
    // A new time after silence is a new epoch, with what came before it.
    driver.lines(&[sentence("GPGSV,1,1,07"), gga("120001", 6)]);
    let positions = driver.end();
    assert_eq!(positions.len(), 3);
    assert_eq!(positions[2]["satellites_in_view"], 7);
    assert!(positions[2].get("speed_mps").is_none());
    assert_eq!(positions[2]["time"], "2020-01-01T12:00:01.000Z");
}

/// No fix is said, unless nobody wants to know; void and quality 0 both mean none.
#[test]
fn without_a_fix() {
    let lines = [
        sentence("GPRMC,120000,V,4800.0,N,01100.0,E,,,010120,,"),
        sentence("GPGGA,120001,0000.0,N,00000.0,E,0,00,,,M,,M,,"),
        sentence("GPGLL,4800.0,N,01100.0,E,120002,V"),
        sentence("GPZDA,120003,01,01,2020,,"),
        sentence("GPGLL,4800.0,N,01100.0,E,120004,A"),
    ];
    let mut driver = Driver::new(NmeaOptions::default());
    let positions = driver.lines(&lines).end();
    let fixes: Vec<&str> = positions.iter().map(|p| p["fix"].as_str().unwrap()).collect();
    assert_eq!(fixes, ["none", "none", "none", "none", "gps"]);
    assert!(positions[..4].iter().all(|p| p.get("lat").is_none()));
    let mut driver = Driver::new(NmeaOptions { without_fix: false, ..NmeaOptions::default() });
    assert_eq!(driver.lines(&lines).end().len(), 1);
    assert_eq!(driver.decoder.counts().detail("positions_without_fix"), 4);
}

/// A receiver that has no clock yet still yields one record a cycle.
#[test]
fn without_a_time() {
    let void = sentence("GPRMC,,V,,,,,,,,,");
    let none = sentence("GPGGA,,,,,,0,00,,,M,,M,,");
    let cycle = [void, none, sentence("GPGSV,1,1,02")];
    let mut driver = Driver::new(NmeaOptions::default());
    driver.lines(&cycle).lines(&cycle).lines(&cycle).lines(&[rmc("120000", "010120")]);
    let positions = driver.end();
    assert_eq!(positions.len(), 4);
    assert!(positions[0].get("time").is_none());
    assert_eq!(positions[2]["satellites_in_view"], 2);
    assert_eq!(positions[3]["fix"], "gps");
}

/// Interleaved devices are merged apart, and the silent one makes room for one too many.
#[test]
fn devices() {
    let tagged = |source: &str, line: &str| {
        let tag = format!("s:{source},c:1577880000");
        format!("\\{tag}*{:02X}\\{line}", checksum(tag.as_bytes()))
    };
    let mut driver = Driver::new(NmeaOptions::default());
    driver.lines(&[
        tagged("a", &gga("120000", 4)),
        tagged("b", &gga("120001", 5)),
        tagged("a", &sentence("GPVTG,1.0,T,,M,2.0,N,,K,A")),
        tagged("b", &sentence("GPVTG,3.0,T,,M,4.0,N,,K,A")),
    ]);
    let positions = driver.end();
    let of = |device: &str| positions.iter().find(|p| p["device"] == device).unwrap();
    assert_eq!((&of("a")["course_deg"], &of("b")["course_deg"]), (&1.0.into(), &3.0.into()));
    // The date is the tag block's.
    assert_eq!(of("b")["time"], "2020-01-01T12:00:01.000Z");

    let mut driver = Driver::new(NmeaOptions::default());
    for index in 0..DEVICES_MAX + 1 {
        driver.lines(&[tagged(&format!("d{index}"), &gga("120000", 4))]);
    }
    assert_eq!(driver.positions().len(), 1);
    assert_eq!(driver.positions()[0]["device"], "d0");
    assert_eq!(driver.decoder.counts().detail("devices_evicted"), 1);
    assert_eq!(driver.end().len(), DEVICES_MAX + 1);
}

/// AIS and other sentences come as they are, at the time of the tag block or of the epoch.
#[test]
fn raw_lines() {
    let ais = "!AIVDM,1,1,,B,,0*25".to_owned();
    let wind = sentence("WIMWV,297.6,R,5.6,N,A");
    let options = NmeaOptions { device: Some("boat".to_owned()), ..NmeaOptions::default() };
    let mut driver = Driver::new(NmeaOptions { other: true, ..options.clone() });
    driver.lines(&[ais.clone(), rmc("120000", "010120"), rmc("120001", "010120"), wind.clone()]);
    let raw: Vec<_> = driver.out.iter().filter(|r| r.header("kind") != Some(b"position")).collect();
    assert_eq!((&raw[0].value[..], raw[0].timestamp_ms), (ais.as_bytes(), None));
    assert_eq!(raw[0].header("kind"), Some(&b"ais"[..]));
    assert_eq!(raw[0].header("sentence"), Some(&b"AIVDM"[..]));
    assert_eq!(
        (&raw[1].value[..], raw[1].timestamp_ms),
        (wind.as_bytes(), Some(1_577_880_001_000))
    );
    assert!(raw.iter().all(|r| r.key.as_deref() == Some(b"boat")));

    let mut driver = Driver::new(NmeaOptions { ais: false, ..options });
    driver.lines(&[ais, wind, "# note".to_owned(), String::new()]).end();
    assert!(driver.out.is_empty());
    assert_eq!(driver.decoder.counts().skipped, 4);
}

/// A dead letter carries the line, the reason and what is wrong in words.
#[test]
fn dead_letters() {
    let mut driver = Driver::new(NmeaOptions::default());
    driver.lines(&["$GPGLL,1*00".to_owned(), sentence("GPRMC,999999,A,,,,,,,,,")]).end();
    let letter = &driver.out[0];
    assert_eq!(&letter.value[..], b"$GPGLL,1*00");
    assert_eq!(letter.header("reason"), Some(&b"checksum"[..]));
    let detail = std::str::from_utf8(letter.header("detail").unwrap()).unwrap();
    assert!(detail.starts_with("the checksum is 00, but the bytes give"), "{detail}");
    assert_eq!(driver.out[1].header("detail"), Some(&b"field 1 of RMC is no time"[..]));
    assert_eq!(driver.decoder.counts().detail("sentences_valid"), 1);
}
