//! The options of `weir collect`.

use std::path::PathBuf;
use std::time::Duration;

use weir_collect::csv::{CsvOptions, CsvTime};
use weir_collect::lines::syslog::SyslogYear;
use weir_collect::lines::{Join, LineFormat, LineOptions, LineTime};
use weir_collect::nmea::NmeaOptions;
use weir_collect::{Follow, StartAt, TimeFormat};
use weir_core::record::Compression;

use crate::commands::produce::parse_delimiter;
use crate::exit::Failure;
use crate::units::Span;

/// Arguments of `weir collect`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir collect host                                   this machine's sensors, every second
  weir collect nmea serial:/dev/ttyUSB0:9600          a GPS receiver
  weir collect lines --follow /var/log/syslog --syslog --topic syslog
  weir collect csv readings.csv --topic readings --key-column station")]
pub struct Args {
    /// What to collect
    #[command(subcommand)]
    pub what: What,
}

/// What can be collected.
#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// This machine's sensors: CPU, memory, disks, network, temperatures
    Host(HostArgs),
    /// Positions from NMEA-0183 receivers and instruments
    Nmea(NmeaArgs),
    /// Lines of logs
    Lines(LinesArgs),
    /// Rows of CSV files, as JSON objects
    Csv(CsvArgs),
}

/// Options of every `weir collect`.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// The topic; created if there is none [default: host.sensors and gps.position; lines and csv
    /// need one]
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// Where input goes that cannot be understood, with the reason in a header; created when
    /// needed [default: TOPIC.dead-letter]
    #[arg(long, value_name = "TOPIC")]
    pub dead_letters: Option<String>,
    /// Partitions of the topic if it is created
    #[arg(long, value_name = "NUMBER", default_value_t = 4)]
    pub partitions: u32,
    /// How batches are compressed: none, lz4, zstd, snappy or gzip [default: as the topic says]
    #[arg(long, value_name = "KIND")]
    pub compression: Option<Compression>,
    /// End after so long [default: at the end of the input, or on Ctrl-C]
    #[arg(long = "for", value_name = "DURATION")]
    pub for_span: Option<Span>,
}

/// Options of `weir collect host`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir collect host
  weir collect host --every 10s --topic site7.sensors
  weir collect host --for 1m --json")]
pub struct HostArgs {
    #[command(flatten)]
    pub common: Common,
    /// How often
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    pub every: Span,
}

/// Options of `weir collect nmea`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir collect nmea drive.nmea.gz --device car-7
  weir collect nmea tcp://192.168.1.10:10110
  weir collect nmea udp://:10110
  weir collect nmea serial:/dev/ttyUSB0:9600 --device boat
  zcat drive.nmea.gz | weir collect nmea -

Sentences of one moment become one JSON record keyed by the device. Sentences with a wrong
checksum, or longer than 1,024 bytes, go to the dead-letter topic.")]
pub struct NmeaArgs {
    #[command(flatten)]
    pub common: Common,
    /// Files (.gz is unpacked), - for stdin, tcp://host:port, udp://address:port to listen on, or
    /// serial:/dev/ttyX:BAUD
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<String>,
    /// Name of the receiver, for input that does not name it
    #[arg(long, value_name = "NAME")]
    pub device: Option<String>,
    /// Leave out AIS sentences
    #[arg(long)]
    pub no_ais: bool,
    /// Keep other good sentences, too, as they are (wind, depth, …)
    #[arg(long)]
    pub other: bool,
    /// Leave out positions of moments without a fix
    #[arg(long)]
    pub only_fixes: bool,
}

/// Options for following files.
#[derive(Clone, Debug, clap::Args)]
pub struct FollowArgs {
    /// Wait for more at the end of the files, as they grow and are rotated
    #[arg(long, short = 'F')]
    pub follow: bool,
    /// With --follow: begin behind what the files hold now, where there is no checkpoint
    #[arg(long, requires = "follow")]
    pub from_end: bool,
    /// With --follow: remember here how far the files were collected, and go on from there
    /// [default: a file in the user's state folder]
    #[arg(long, value_name = "FILE", requires = "follow")]
    pub checkpoint: Option<PathBuf>,
    /// With --follow: remember nothing, begin anew each time
    #[arg(long, requires = "follow", conflicts_with = "checkpoint")]
    pub no_checkpoint: bool,
}

/// Options of `weir collect lines`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir collect lines app.log --topic app
  weir collect lines --follow /var/log/syslog --syslog --topic syslog
  weir collect lines server.log --join start='[####-##-##' --topic server
  weir collect lines access.log --time-after [ --time-format '%d/%b/%Y:%H:%M:%S %z' --topic web

With --follow positions are remembered once the node has acknowledged what stands before them: no
line is lost, and after a crash the lines of the last second may come twice.

A line may be 64 KiB (65,536 bytes) long; the beginning of a longer one goes to the dead-letter
topic. Lines joined into one record may be 256 KiB (262,144 bytes) and 1,024 lines together.")]
pub struct LinesArgs {
    #[command(flatten)]
    pub common: Common,
    /// Files (.gz is unpacked unless followed), - for stdin, tcp://host:port, udp://address:port
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<String>,
    #[command(flatten)]
    pub follow: FollowArgs,
    /// The lines are syslog messages (RFC 5424 or 3164): records are JSON, keyed by host
    #[arg(long)]
    pub syslog: bool,
    /// Join lines to records: `continuation` (indented lines, stack traces) or start=PATTERN with
    /// # for a digit and ? for any character
    #[arg(long, value_name = "RULE", value_parser = parse_join)]
    pub join: Option<Join>,
    /// Key of all records
    #[arg(long, value_name = "KEY")]
    pub key_text: Option<String>,
    /// The event time follows the first occurrence of this text [default: no event time]
    #[arg(long, value_name = "TEXT")]
    pub time_after: Option<String>,
    /// How event times are written; without --time-after they begin the line
    #[arg(long, value_name = "FORMAT")]
    pub time_format: Option<TimeFormat>,
    /// Keep empty lines
    #[arg(long)]
    pub keep_empty: bool,
}

/// Options of `weir collect csv`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir collect csv bus.csv.gz --topic buses --key-column vehicle_id
  weir collect csv air.csv --topic air --key-column station --utc-offset +08:00
  weir collect csv --follow readings.csv --topic readings --time-column at

Each row becomes a JSON object; the first row names the columns. Rows that do not fit go to the
dead-letter topic.

A line may be 64 KiB (65,536 bytes) long, and a row of several lines 256 KiB (262,144 bytes) and
1,024 lines; the beginning of a longer one goes to the dead-letter topic.")]
pub struct CsvArgs {
    #[command(flatten)]
    pub common: Common,
    /// Files (.gz is unpacked unless followed) or - for stdin
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<String>,
    #[command(flatten)]
    pub follow: FollowArgs,
    /// Take the key from this column
    #[arg(long, value_name = "NAME")]
    pub key_column: Option<String>,
    /// Take the event time from this column [default: by usual names]
    #[arg(long, value_name = "NAME")]
    pub time_column: Option<String>,
    /// How the event time is written
    #[arg(long, value_name = "FORMAT", default_value = "auto", requires = "time_column")]
    pub time_format: TimeFormat,
    /// The event time is in columns year, month, day, hour, …, this far from UTC
    #[arg(long, value_name = "+HH:MM", allow_hyphen_values = true, value_parser = parse_offset,
          conflicts_with = "time_column")]
    pub utc_offset: Option<i32>,
    /// What stands between the columns
    #[arg(long, value_name = "CHAR", default_value = ",", value_parser = parse_delimiter)]
    pub delimiter: u8,
    /// Names of the columns, if the first row is none of names
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub names: Option<Vec<String>>,
}

impl NmeaArgs {
    /// How the sentences are read.
    pub fn options(&self) -> NmeaOptions {
        NmeaOptions {
            device: self.device.clone(),
            ais: !self.no_ais,
            other: self.other,
            without_fix: !self.only_fixes,
            ..NmeaOptions::default()
        }
    }
}

impl LinesArgs {
    /// How the lines are read.
    ///
    /// # Errors
    /// Options that do not go together.
    pub fn options(&self) -> Result<LineOptions, Failure> {
        let wants_time = self.time_after.is_some() || self.time_format.is_some();
        if self.syslog && wants_time {
            return Err(Failure::usage("syslog messages have their time by themselves")
                .next("Leave out --time-after and --time-format."));
        }
        let time = wants_time.then(|| LineTime {
            after: self.time_after.clone(),
            format: self.time_format.clone().unwrap_or_default(),
        });
        let syslog = LineFormat::Syslog(SyslogYear::NOW_UTC);
        Ok(LineOptions {
            format: if self.syslog { syslog } else { LineFormat::Raw },
            join: self.join.clone(),
            time,
            key: self.key_text.clone().map(Into::into),
            skip_empty: !self.keep_empty,
            idle_after: Duration::from_secs(1),
        })
    }
}

impl CsvArgs {
    /// How the rows are read.
    pub fn options(&self) -> CsvOptions {
        let time = match (&self.time_column, self.utc_offset) {
            (Some(name), _) => {
                CsvTime::Column { name: name.clone(), format: self.time_format.clone() }
            }
            (None, Some(utc_offset_min)) => CsvTime::Parts { utc_offset_min },
            (None, None) => CsvTime::Auto,
        };
        CsvOptions {
            delimiter: self.delimiter,
            header: self.names.clone(),
            key: self.key_column.clone(),
            time,
            ..CsvOptions::default()
        }
    }
}

impl FollowArgs {
    /// The files to follow, without checkpoints yet.
    ///
    /// # Errors
    /// What is named is no file.
    pub fn files(&self, inputs: &[String]) -> Result<Follow, Failure> {
        let other = inputs.iter().find(|input| *input == "-" || input.contains("://"));
        if let Some(other) = other {
            return Err(Failure::usage(format!("--follow needs files, and `{other}` is none")));
        }
        if let Some(packed) = inputs.iter().find(|input| input.ends_with(".gz")) {
            return Err(Failure::usage(format!("{packed} is packed and cannot be followed")));
        }
        let mut follow = Follow::new(inputs.iter().map(PathBuf::from).collect());
        if self.from_end {
            follow.start = StartAt::End;
        }
        Ok(follow)
    }
}

fn parse_join(text: &str) -> Result<Join, String> {
    match (text, text.strip_prefix("start=")) {
        ("continuation", _) => Ok(Join::Continuation),
        (_, Some(pattern)) if !pattern.is_empty() => Ok(Join::StartsWith(pattern.to_owned())),
        _ => Err(format!("`{text}` is no rule: write continuation or start=PATTERN")),
    }
}

/// `+08:00` as minutes east of UTC.
fn parse_offset(text: &str) -> Result<i32, String> {
    let wrong = || format!("`{text}` is no offset: write +08:00");
    // The one parser of zones is that of time formats.
    let format: TimeFormat = format!("auto@{text}").parse().map_err(|_| wrong())?;
    Ok(format.utc_offset_min)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::figures::thousands;
    use clap::Parser;
    use clap::Subcommand;
    use weir_collect::limits;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn what(line: &str) -> Result<What, clap::Error> {
        let words = std::iter::once("collect").chain(line.split(' '));
        Line::try_parse_from(words).map(|line| line.args.what)
    }

    #[test]
    fn options_become_those_of_the_collectors() {
        let Ok(What::Csv(csv)) = what("csv a --utc-offset +08:00 --key-column station") else {
            panic!("not csv")
        };
        assert_eq!(csv.options().time, CsvTime::Parts { utc_offset_min: 480 });
        assert_eq!(csv.options().key.as_deref(), Some("station"));
        let Ok(What::Lines(lines)) = what("lines a --join start=[## --time-after [") else {
            panic!("not lines")
        };
        let options = lines.options().unwrap();
        assert_eq!(options.join, Some(Join::StartsWith("[##".into())));
        assert_eq!(options.time.unwrap().after.as_deref(), Some("["));
        let Ok(What::Lines(lines)) = what("lines a --syslog --time-after [") else {
            panic!("not lines")
        };
        assert!(lines.options().is_err());
        let Ok(What::Nmea(nmea)) = what("nmea a --device x --no-ais --only-fixes") else {
            panic!("not nmea")
        };
        let options = nmea.options();
        assert!(!options.ais && !options.without_fix && options.device.as_deref() == Some("x"));
    }

    #[test]
    fn wrong_options() {
        for wrong in [
            "nmea",
            "lines a --join x",
            "lines a --checkpoint f",
            "lines -F a --checkpoint f --no-checkpoint",
            "csv a --utc-offset 8",
            "csv a --delimiter ab",
            "host --every fast",
        ] {
            assert!(what(wrong).is_err(), "{wrong}");
        }
        let Ok(What::Lines(lines)) = what("lines -F a b.gz") else { panic!("not lines") };
        assert!(lines.follow.files(&lines.inputs).is_err());
        assert!(lines.follow.files(&["-".to_owned()]).is_err());
    }

    /// Goal: `--help` tells how long lines may be, as they may.
    #[test]
    fn limits_are_told() {
        let mut collect = What::augment_subcommands(clap::Command::new("collect"));
        let mut tells = |name: &str, limits: &[usize]| {
            let command = collect.find_subcommand_mut(name).unwrap();
            let help = command.render_long_help().to_string();
            for limit in limits {
                assert!(help.contains(&thousands(*limit as u64)), "{limit} in {help}");
            }
        };
        let long = [limits::LINE_BYTES_MAX, limits::RECORD_BYTES_MAX, limits::RECORD_LINES_MAX];
        tells("lines", &long);
        tells("csv", &long);
        tells("nmea", &[limits::SENTENCE_BYTES_MAX]);
    }
}
