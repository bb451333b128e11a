//! The options of `weir produce`.

use std::path::PathBuf;

use bytes::Bytes;
use weir_collect::TimeFormat;
use weir_core::record::Compression;

use super::rules::{InputFormat, Place, Rules};
use crate::exit::Failure;

/// What happens at a line that no record can be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum OnBadLine {
    /// The command ends; what stands before the line is produced.
    #[default]
    Stop,
    /// The line is left out and counted.
    Skip,
}

/// Arguments of `weir produce`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  echo hello | weir produce readings --create
  weir produce gps drive.nmea.gz
  weir produce buses --format csv --key-column vehicle_id --time-column timestamp bus.csv.gz
  weir produce uplinks --format json --key-pointer /devEUI --time-pointer /_timestamp up.ndjson
  weir produce replay --rate 200 readings.log
  printf 'sensor1:20.5\\n' | weir produce readings --key-prefix :

A line ends at a line feed; a carriage return before it stays part of the value. The last line of
a file that has no line feed gets the header weir-eol: none. So `weir consume TOPIC --partition 0
--from earliest --until-end --format raw` gives back what was produced to a partition, byte for
byte.

A line, or a row of CSV with the line feeds inside its quotes, may be 1 MiB (1,048,576 bytes) long;
a longer one is a bad line, see --on-bad-line.")]
pub struct Args {
    /// The topic
    pub topic: String,
    /// The files to read, one after the other; `-` is stdin, as is no file at all. Names that
    /// end in .gz are unpacked
    pub files: Vec<PathBuf>,
    /// How records are made of lines
    #[command(flatten)]
    pub records: RecordArgs,
    /// A header for every record; may be given several times
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    pub headers: Vec<(String, Bytes)>,
    /// Produce all records to this partition [default: by key, or in turn without keys]
    #[arg(long, value_name = "NUMBER")]
    pub partition: Option<u32>,
    /// Produce so many records per second, not more
    #[arg(long, value_name = "RECORDS_PER_S", value_parser = parse_rate)]
    pub rate: Option<f64>,
    /// How batches are compressed: none, lz4, zstd, snappy or gzip [default: as the topic says]
    #[arg(long, value_name = "KIND")]
    pub compression: Option<Compression>,
    /// Create the topic if there is none, with so many partitions
    #[arg(long, value_name = "PARTITIONS", num_args = 0..=1, require_equals = true,
          default_missing_value = "1")]
    pub create: Option<u32>,
    /// What happens at a line that no record can be made of
    #[arg(long, value_enum, default_value_t)]
    pub on_bad_line: OnBadLine,
    /// Show no progress
    #[arg(long, short)]
    pub quiet: bool,
}

/// How records are made of lines: what `weir produce` and `weir module test` take.
#[derive(Debug, clap::Args)]
pub struct RecordArgs {
    /// What the lines are
    #[arg(long, value_enum, default_value_t)]
    pub format: InputFormat,
    /// Take the key from this place of a JSON line, such as /device/id (RFC 6901)
    #[arg(long, value_name = "POINTER", group = "key_from")]
    pub key_pointer: Option<String>,
    /// Take the key from this column of a CSV row
    #[arg(long, value_name = "NAME", group = "key_from")]
    pub key_column: Option<String>,
    /// Take what stands before the first SEP of a line as its key; the rest is the value
    #[arg(long, value_name = "SEP", group = "key_from")]
    pub key_prefix: Option<String>,
    /// Take the event time from this place of a JSON line
    #[arg(long, value_name = "POINTER", group = "time_from")]
    pub time_pointer: Option<String>,
    /// Take the event time from this column of a CSV row
    #[arg(long, value_name = "NAME", group = "time_from")]
    pub time_column: Option<String>,
    /// How the time is written: auto, rfc3339, unix, unix-ms or a pattern such as
    /// '%d/%b/%Y:%H:%M:%S'; a suffix such as @+08:00 is the zone of times that name none
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    pub time_format: TimeFormat,
    /// What stands between the columns of a row
    #[arg(long, value_name = "CHAR", default_value = ",", value_parser = parse_delimiter)]
    pub delimiter: u8,
    /// Make a record of the row of column names, too
    #[arg(long)]
    pub keep_names: bool,
}

impl RecordArgs {
    /// How records are made.
    ///
    /// # Errors
    /// Options that do not go together.
    pub fn rules(&self) -> Result<Rules, Failure> {
        let key = place(&self.key_pointer, &self.key_column, &self.key_prefix);
        let time = place(&self.time_pointer, &self.time_column, &None);
        for place in key.iter().chain(&time) {
            self.check_place(place)?;
        }
        Ok(Rules {
            format: self.format,
            key,
            time,
            time_format: self.time_format.clone(),
            delimiter: self.delimiter,
            keep_names: self.keep_names,
        })
    }

    fn check_place(&self, place: &Place) -> Result<(), Failure> {
        let (option, needs) = match place {
            Place::Pointer(pointer) if !pointer.starts_with('/') => {
                return Err(Failure::usage(format!("`{pointer}` is no JSON pointer"))
                    .next(format!("Write /{pointer}, and / between names that are nested.")));
            }
            Place::Prefix(separator) if separator.is_empty() => {
                return Err(Failure::usage("--key-prefix needs at least one character"));
            }
            Place::Pointer(_) => ("a JSON pointer", InputFormat::Json),
            Place::Column(_) => ("a column", InputFormat::Csv),
            Place::Prefix(_) => ("--key-prefix", InputFormat::Lines),
        };
        if self.format == needs {
            return Ok(());
        }
        let format = format!("{needs:?}").to_lowercase();
        Err(Failure::usage(format!("{option} needs --format {format}")))
    }
}

fn place(
    pointer: &Option<String>,
    column: &Option<String>,
    prefix: &Option<String>,
) -> Option<Place> {
    let pointer = pointer.clone().map(Place::Pointer);
    let column = column.clone().map(Place::Column);
    let prefix = prefix.clone().map(|text| Place::Prefix(text.into_bytes()));
    pointer.or(column).or(prefix)
}

fn parse_header(text: &str) -> Result<(String, Bytes), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            Ok((name.to_owned(), Bytes::copy_from_slice(value.as_bytes())))
        }
        _ => Err(format!("`{text}` is no header: write name=value")),
    }
}

/// Reads what stands between columns: one ASCII character, or `\t`.
pub fn parse_delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"\\t" | b"tab" => Ok(b'\t'),
        [byte] if *byte != b'"' && *byte != b'\n' => Ok(*byte),
        _ => Err(format!("`{text}` is no delimiter: write one ASCII character, or \\t")),
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err(format!("`{text}` is no rate: write a number above 0")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::figures;
    use clap::Parser;
    use weir_core::limits::RECORD_BYTES_MAX;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &str) -> Result<Args, clap::Error> {
        let words = std::iter::once("produce").chain(line.split(' '));
        Line::try_parse_from(words).map(|line| line.args)
    }

    #[test]
    fn options() {
        let given = args("t a b --header k=v=w --rate 0.5 --create --delimiter tab").unwrap();
        assert_eq!(given.headers, [("k".to_owned(), Bytes::from_static(b"v=w"))]);
        assert_eq!((given.rate, given.create), (Some(0.5), Some(1)));
        assert_eq!(given.records.delimiter, b'\t');
        assert_eq!(given.files.len(), 2);
        assert_eq!(args("t --create=4").unwrap().create, Some(4));
        assert_eq!(args("t --compression zstd").unwrap().compression, Some(Compression::Zstd));
        for wrong in [
            "t --rate 0",
            "t --rate nan",
            "t --header =v",
            "t --delimiter ab",
            "t --compression best",
            "t --time-format %Q",
            "t --key-column a --key-prefix b",
        ] {
            assert!(args(wrong).is_err(), "{wrong}");
        }
    }

    /// Goal: a place that the format cannot have is refused before anything is produced.
    #[test]
    fn places_need_their_format() {
        let rules = |line: &str| args(line).unwrap().records.rules();
        let good = rules("t --format csv --key-column id --time-column at").unwrap();
        assert_eq!(good.key, Some(Place::Column("id".into())));
        assert_eq!(good.time, Some(Place::Column("at".into())));
        assert!(rules("t --format json --key-pointer /a").is_ok());
        assert!(rules("t --key-prefix :").is_ok());
        for wrong in [
            "t --key-column id",
            "t --key-pointer /a",
            "t --format json --key-pointer a",
            "t --format csv --key-prefix :",
        ] {
            assert!(rules(wrong).is_err(), "{wrong}");
        }
    }

    /// Goal: `--help` tells how long a line may be, as it may.
    #[test]
    fn limits_are_told() {
        let mut produce = <Args as clap::Args>::augment_args(clap::Command::new("produce"));
        let help = produce.render_long_help().to_string();
        let limit = figures::thousands(RECORD_BYTES_MAX as u64);
        assert!(help.contains(&limit), "{help}");
    }
}
