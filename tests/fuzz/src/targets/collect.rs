//! Text from strangers: receivers, logs, tables. The checks themselves are `weir-collect`'s.

use crate::{Target, Verdict, no_repair};
use weir_collect::fuzz_targets;

pub(super) const TARGETS: &[Target] = &[
    Target {
        name: "nmea",
        check: |input| run(fuzz_targets::nmea, input),
        seeds: || {
            seeds(&[
                "$GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W*6A\r\n\
                 $GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47\r\n",
                "$GNVTG,,T,,M,0.014,N,0.026,K,A*30\n$GNGSA,A,3,10,23,,,,,,,,,,,1.9,1.0,1.6*25\n",
                "\\s:station,c:1241544035*53\\!AIVDM,1,1,,B,15N4cJ`005Jrek0H@9n`DW5608EP,0*13\n",
                "$GPZDA,201530.00,04,07,2002,00,00*60\n$GPGLL,4916.45,N,12311.12,W,225444,A*31\n",
            ])
        },
        words: &["$GPRMC,", "*", ",", "\r\n", "\\", "!AIVDM", "999999999", "-", ".", "*00"],
        ..TEXT
    },
    Target {
        name: "csv",
        check: |input| run(fuzz_targets::csv, input),
        seeds: || {
            seeds(&[
                "time,a,b\n2024-02-29 12:00:00,1,\"x, \"\"y\"\"\"\n2024-02-29T12:00:01Z,2.5,\n",
                "year;month;day;hour;a\n2013;3;1;0;4\n2013;3;1;1;NA\n",
                "No,year,month,day,hour,PM2.5\n1,2013,3,1,0,4\n",
            ])
        },
        words: &["\"", "\"\"", ",", ";", "\n", "\r\n", "time", "year", "1e999", "nan", "\u{feff}"],
        ..TEXT
    },
    Target {
        name: "lines",
        check: |input| run(fuzz_targets::lines, input),
        seeds: || {
            seeds(&[
                "[2024-02-29 12:00:00,123] INFO started\n\tat a.b.C\n[2024-02-29 12:00:01] x\n",
                "1.2.3.4 - - [29/Jan/2024:12:00:00 +0100] \"GET / HTTP/1.1\" 200 12\n",
                "Jun 14 15:16:01 combo sshd(pam_unix)[19939]: authentication failure\n",
            ])
        },
        words: &["\n", "\r", "\n\t", "[##", "\0", "[", "2024-02-29T12:00:00Z"],
        ..TEXT
    },
    Target {
        name: "syslog",
        check: |input| run(fuzz_targets::syslog, input),
        seeds: || {
            [
                "<34>Oct 11 22:14:15 mymachine su: 'su root' failed for lonvick on /dev/pts/8",
                "<165>1 2003-10-11T22:14:15.003Z host app 1 ID47 [a@1 b=\"c\\\"d\"] text",
                "Jun 14 15:16:01 combo sshd(pam_unix)[19939]: authentication failure",
            ]
            .map(|text| text.as_bytes().to_vec())
            .into()
        },
        words: &["<", ">", "<191>", "<999>", "1 ", "- ", "[", "]", "\\", "\"", "Feb 29 ", ":"],
        ..TEXT
    },
    Target {
        name: "time",
        check: |input| run(fuzz_targets::time, input),
        seeds: || {
            [
                "2024-02-29T12:00:00.123456789+05:30",
                "2024-02-29 12:00:00,123",
                "1709208000000",
                "29/Feb/2024:12:00:00.5 +0000",
                "240229120000",
                "Thu, 29 Feb 2024 12:00:00 GMT",
                "%Y-%m-%d %H:%M:%S.%f %z",
            ]
            .map(|text| text.as_bytes().to_vec())
            .into()
        },
        words: &["-", ":", "Z", "+", "99", "0000", "%", "%Y", "%d", "Feb", "T", ".999999999999"],
        ..TEXT
    },
];

pub(super) const TEXT: Target = Target {
    name: "",
    check: |_| Verdict::Refused,
    seeds: Vec::new,
    repair: no_repair,
    words: &[],
    // Decoders of columns and regular fields build maps and JSON: many small pieces.
    memory_bytes_max: |input_bytes| 8 * 1024 * 1024 + 512 * input_bytes as u64,
};

/// The targets' first byte chooses options: each text with none and with several.
fn seeds(texts: &[&str]) -> Vec<Vec<u8>> {
    let flags = [0u8, 1, 2, 5, 8, 16, 34, 72];
    let with = |text: &&str| flags.map(|flag| [&[flag], text.as_bytes()].concat());
    texts.iter().flat_map(with).collect()
}

/// Collectors refuse nothing: what cannot be understood becomes a dead letter.
fn run(target: fn(&[u8]), input: &[u8]) -> Verdict {
    target(input);
    Verdict::Accepted
}
