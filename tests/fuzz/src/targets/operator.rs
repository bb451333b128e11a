//! What operators hand in: configuration files, settings, certificates and keys.

use super::collect::TEXT;
use crate::samples::certificates::{AUTHORITY, CLIENT_WITH_KEY, NODE, der, pem};
use crate::{Target, Verdict};
use weir_core::limits::NAME_BYTES_MAX;
use weir_node::fuzz_targets;
use weir_transport::{CertificateFacts, Identity, Trust};

pub(super) const TARGETS: &[Target] = &[
    Target {
        name: "config",
        check: |input| verdict(fuzz_targets::config(input)),
        seeds: fuzz_targets::config_seeds,
        words: &[
            "\n[",
            "]\n",
            "[[",
            "]]",
            " = ",
            "'",
            "\"",
            "\"\"\"",
            "'''",
            "#",
            "{",
            "}",
            ",",
            "-",
            "0x",
            "1e9",
            "nan",
            "true",
            "auto",
            "off",
            "MiB",
            "KiB",
            "d",
            "ms",
            "storage",
            "access.rule",
            ".",
            "1979-05-27T07:32:00Z",
            "\\u0000",
            "\\U00110000",
            "\u{feff}",
            "\r\n",
            "listen",
            "[[[[[[[[",
        ],
        ..TEXT
    },
    Target {
        name: "setting",
        check: |input| verdict(fuzz_targets::setting(input)),
        seeds: fuzz_targets::setting_seeds,
        words: &[
            "auto",
            "off",
            "KiB",
            "MiB",
            "GiB",
            "TiB",
            "ms",
            "s",
            "m",
            "h",
            "d",
            ",",
            ".",
            "-",
            "+",
            "0",
            "9999999999999999999",
            "18446744073709551615",
            "[::1]:",
            "%",
            "admin",
            "=",
            "\"",
            "\u{7f}",
        ],
        ..TEXT
    },
    Target {
        name: "certificate",
        check: check_certificate,
        seeds: || [AUTHORITY, NODE, CLIENT_WITH_KEY].map(der).into(),
        ..TEXT
    },
    Target {
        name: "pem",
        check: check_pem,
        seeds: || [AUTHORITY, NODE, CLIENT_WITH_KEY].map(|text| text.as_bytes().to_vec()).into(),
        words: &[
            "-----BEGIN CERTIFICATE-----\n",
            "-----END CERTIFICATE-----\n",
            "-----BEGIN ",
            "-----\n",
            "-----BEGIN PRIVATE KEY-----\n",
            "-----END PRIVATE KEY-----\n",
            "=",
            "==",
            "\n",
            "\r\n",
            " ",
        ],
        ..TEXT
    },
];

fn verdict(accepted: bool) -> Verdict {
    if accepted { Verdict::Accepted } else { Verdict::Refused }
}

/// Facts are such that rights can be given to them, and the same from DER and PEM.
fn check_certificate(input: &[u8]) -> Verdict {
    let text = pem(input);
    let _ = Trust::from_pem(text.as_bytes());
    let _ = Identity::from_pem(text.as_bytes(), CLIENT_WITH_KEY.as_bytes());
    let facts = CertificateFacts::from_der(input);
    let wrapped = CertificateFacts::from_pem(text.as_bytes());
    assert!(input.is_empty() || wrapped == facts, "{wrapped:?}, not {facts:?}");
    let Ok(facts) = facts else { return Verdict::Refused };
    assert!((1..=NAME_BYTES_MAX).contains(&facts.principal.len()));
    assert!(!facts.principal.chars().any(char::is_control));
    assert!(!format!("{} {}", facts.not_before, facts.not_after).is_empty());
    Verdict::Accepted
}

/// Loading says what is wrong; what loads has facts or says why not.
fn check_pem(input: &[u8]) -> Verdict {
    if let Ok(identity) = Identity::from_pem(input, input) {
        let own = CertificateFacts::from_pem(input);
        assert_eq!(identity.facts(), own, "its first certificate is its own");
    }
    verdict(Trust::from_pem(input).is_ok())
}
