//! What modules return: columns, of which nothing may be believed.

use crate::{Target, Verdict, memory_in_proportion, no_repair};
use weir_wasm::columns::{Column, HeaderColumns, NullableColumn};

pub(super) const TARGETS: &[Target] = &[Target {
    name: "columns",
    check,
    seeds: || vec![seed(&[1, 1, 4], b"abcd", &[0b010]), seed(&[], b"", &[])],
    repair: no_repair,
    words: &["\0\0\0\0", "\u{1}", "\u{7f}"],
    memory_bytes_max: memory_in_proportion,
}];

/// Ends, null bits and bytes, the first two behind their number.
fn seed(ends: &[u32], bytes: &[u8], nulls: &[u8]) -> Vec<u8> {
    let mut input = vec![ends.len() as u8, nulls.len() as u8];
    ends.iter().for_each(|end| input.extend(end.to_le_bytes()));
    input.extend(nulls);
    input.extend(bytes);
    input
}

fn check(input: &[u8]) -> Verdict {
    let Some(column) = column(input) else { return Verdict::Refused };
    // Reading must be safe even without a check, and also where a column says too much.
    let lengths = column.iter().map(|string| string.map_or(0, <[u8]>::len));
    let strings: usize = lengths.sum();
    let names = Column { ends: column.ends.clone(), bytes: column.bytes.clone() };
    let ends = (0..column.ends.len() as u32).collect();
    let headers = HeaderColumns { ends, names, values: column.clone() };
    for at in 0..headers.ends.len() + 1 {
        headers.get(at).for_each(drop);
    }
    let valid = headers.check(headers.ends.len());
    if column.check(column.len()).is_err() {
        assert!(valid.is_err() || headers.ends.is_empty());
        return Verdict::Refused;
    }
    assert_eq!(strings, column.bytes.len(), "the strings of a right column are its bytes");
    let mut again = NullableColumn::default();
    column.iter().for_each(|string| again.push(string));
    again.finish();
    assert_eq!((&again.ends, &again.bytes), (&column.ends, &column.bytes));
    Verdict::Accepted
}

fn column(input: &[u8]) -> Option<NullableColumn> {
    let (ends, nulls, rest) = (*input.first()? as usize, *input.get(1)? as usize, &input[2..]);
    let (ends, rest) = rest.split_at_checked(ends * 4)?;
    let (nulls, bytes) = rest.split_at_checked(nulls)?;
    let ends =
        ends.chunks_exact(4).filter_map(|end| Some(u32::from_le_bytes(end.try_into().ok()?)));
    Some(NullableColumn { ends: ends.collect(), bytes: bytes.to_vec(), nulls: nulls.to_vec() })
}
