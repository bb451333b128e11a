//! Bakes the date of this build into the crate, as `WEIR_BUILD_EPOCH` (seconds since 1970).
//!
//! It is the lower bound of every clock the crate checks certificates with (see `clock.rs`).
//! `SOURCE_DATE_EPOCH`, the usual variable of reproducible builds, takes precedence.

use std::time::SystemTime;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let stated = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = stated.unwrap_or_else(|| {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    });
    println!("cargo:rustc-env=WEIR_BUILD_EPOCH={seconds}");
}
