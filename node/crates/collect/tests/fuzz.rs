//! Every decoder on arbitrary bytes, and on mutations of real input.

use proptest::collection::vec;
use proptest::prelude::*;
use weir_collect::fuzz_targets::TARGETS;

const SEEDS: [&str; 8] = [
    "$GNRMC,021417.00,A,3725.58362,N,12205.61915,W,0.028,65.13,070220,13.06,E,F,V*4A\n\
     $GNGGA,021417.00,3725.58362,N,12205.61915,W,5,12,0.76,4.4,M,-30.0,M,0.0,2000*52\n\
     $GNGSA,A,3,17,02,06,28,12,13,15,24,19,,,,1.48,0.76,1.27,1*0A\n\
     $GNGLL,3725.58362,N,12205.61915,W,021417.00,A,D*66\n",
    "\\s:2573238,c:1733782034*0A\\!BSVDM,1,1,,A,13o4g`00000I2ENRH4g83S0L088C,0*3F\n",
    "$GPZDA,195719,16,04,14,-02,00*63\n$GPGSV,3,3,12,2,40,16,00,090,*72\n",
    "a,b,year,month,day\n1,\"x\"\"\ny\",2013,3,1\n,NA,2013,3,1\n",
    "timestamp,value\n2013-12-02 21:15:00,73.96732207\n",
    "[2016-12-19 20:39:48,918] WARN x\njava.io.IOException: y\n\tat z\n",
    "<165>1 2003-10-11T22:14:15.003Z host app 1 ID47 [a b=\"c\\]\"][d] text",
    "Jun 14 15:16:01 combo sshd(pam_unix)[19939]: check pass; user unknown ",
];

/// One change to some bytes.
fn mutate(bytes: &mut Vec<u8>, kind: u8, at: usize, byte: u8) {
    if bytes.is_empty() {
        return;
    }
    let at = at % bytes.len();
    match kind % 6 {
        0 => bytes[at] = byte,
        1 => bytes[at] ^= 1 << (byte % 8),
        2 => bytes.insert(at, byte),
        3 => bytes.truncate(at),
        4 => drop(bytes.remove(at)),
        _ => bytes.extend_from_within(at..),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(512)
    })]

    #[test]
    fn arbitrary_bytes(bytes in vec(any::<u8>(), 0..512)) {
        for (_, target) in TARGETS {
            target(&bytes);
        }
    }

    #[test]
    fn mutated_input(
        seed in 0..SEEDS.len(),
        flags in any::<u8>(),
        mutations in vec((any::<u8>(), any::<usize>(), any::<u8>()), 0..12),
    ) {
        let mut bytes = SEEDS[seed].as_bytes().to_vec();
        for (kind, at, byte) in mutations {
            mutate(&mut bytes, kind, at, byte);
        }
        let mut flagged = vec![flags];
        flagged.extend_from_slice(&bytes);
        for (_, target) in TARGETS {
            target(&bytes);
            target(&flagged);
        }
    }

    /// Whatever happens to one byte of a sentence, it is refused: a checksum over 7-bit text
    /// catches every change of a single byte.
    #[test]
    fn a_changed_byte_is_noticed(at in 1usize..200, byte in any::<u8>()) {
        let sentence = SEEDS[0].lines().next().unwrap().as_bytes();
        let at = 1 + at % (sentence.len() - 1);
        let mut changed = sentence.to_vec();
        changed[at] = byte;
        let in_checksum = at >= sentence.len() - 2;
        let same = changed == sentence || (in_checksum && byte.eq_ignore_ascii_case(&sentence[at]));
        prop_assert_eq!(weir_collect::nmea::parse_line(&changed).is_ok(), same);
    }
}
