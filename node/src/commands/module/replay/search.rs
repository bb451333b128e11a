//! Finds what a replay made in what the node wrote. Pure.
//!
//! Both are sequences of records; the replay's must lie in the node's, in order and without a gap.
//! The node's comes one by one and is not kept: the search is that of Knuth, Morris and Pratt, so
//! each record is looked at a bounded number of times, and the longest beginning of the replay's
//! that was found anywhere says where the two part.

use std::collections::VecDeque;
use weir_core::Offset;
use weir_core::record::Record;

/// A search in progress.
pub struct Search<'a> {
    wanted: &'a [Record],
    /// For each length of a beginning: the longest shorter one that it ends with.
    shorter: Vec<usize>,
    /// How many wanted records match the last ones that came.
    matched: usize,
    came: u64,
    /// The offsets of the last records that came, as many as are wanted.
    offsets: VecDeque<Offset>,
    first: Option<Offset>,
    last: Option<Offset>,
    /// The offset of the first record of a run, by how many came when it was complete.
    found: Option<(u64, Offset)>,
    /// The same of the last run.
    found_last: Option<(u64, Offset)>,
    parting: Parting,
}

/// Where the two part: behind so many records that are the same, with what the node has there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parting {
    /// How many records are the same.
    pub same: usize,
    /// What comes then, and where; `None`: nothing.
    pub node: Option<(Offset, Record)>,
}

/// Whether there must be nothing before, or behind, what was wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// Nothing before.
    pub begin: bool,
    /// Nothing behind.
    pub end: bool,
}

/// How a search ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// All of it, beginning with this offset; `None` where nothing was wanted.
    Same(Option<Offset>),
    /// Not all of it.
    Parts(Parting),
    /// All of it, and so many records besides, the node's first and last at these offsets.
    Besides(u64, Offset, Offset),
}

impl<'a> Search<'a> {
    /// Looks for `wanted`.
    pub fn new(wanted: &'a [Record]) -> Search<'a> {
        let mut shorter = vec![0; wanted.len() + 1];
        let mut matched = 0;
        for at in 1..wanted.len() {
            while matched > 0 && wanted[at] != wanted[matched] {
                matched = shorter[matched];
            }
            matched += usize::from(wanted[at] == wanted[matched]);
            shorter[at + 1] = matched;
        }
        Search {
            wanted,
            shorter,
            matched: 0,
            came: 0,
            offsets: VecDeque::new(),
            first: None,
            last: None,
            found: None,
            found_last: None,
            parting: Parting::default(),
        }
    }

    /// The node's next record.
    pub fn push(&mut self, offset: Offset, record: &Record) {
        self.came += 1;
        self.first = self.first.or(Some(offset));
        self.last = Some(offset);
        if self.wanted.is_empty() {
            return;
        }
        if self.offsets.len() == self.wanted.len() {
            self.offsets.pop_front();
        }
        self.offsets.push_back(offset);
        if self.matched == self.wanted.len() {
            self.matched = self.shorter[self.matched];
        }
        loop {
            if self.wanted[self.matched] == *record {
                self.matched += 1;
                break;
            }
            if self.matched > self.parting.same || self.parting.node.is_none() {
                let node = Some((offset, record.clone()));
                self.parting = Parting { same: self.matched, node };
            }
            if self.matched == 0 {
                break;
            }
            self.matched = self.shorter[self.matched];
        }
        if self.matched == self.wanted.len() {
            let run = (self.came, self.offsets.front().copied().unwrap_or(offset));
            self.found = self.found.or(Some(run));
            self.found_last = Some(run);
        }
    }

    /// No more comes.
    pub fn end(self, closed: Closed) -> Found {
        let wanted = self.wanted.len() as u64;
        let besides = || {
            let (first, last) = (self.first.unwrap_or_default(), self.last.unwrap_or_default());
            Found::Besides(self.came - wanted.min(self.came), first, last)
        };
        if wanted == 0 {
            let any = closed.begin && closed.end && self.came > 0;
            return if any { besides() } else { Found::Same(None) };
        }
        let Some((at, begin)) = self.found else {
            // What matched up to the end may be the longest of all.
            return Found::Parts(match self.matched > self.parting.same {
                true => Parting { same: self.matched, node: None },
                false => self.parting,
            });
        };
        let at_begin = at == wanted;
        let (behind, begin_last) = self.found_last.unwrap_or((at, begin));
        let at_end = behind == self.came;
        match (closed.begin, closed.end) {
            (true, true) if self.came != wanted => besides(),
            (true, _) if !at_begin => besides(),
            (_, true) if !at_end => besides(),
            (_, true) => Found::Same(Some(begin_last)),
            _ => Found::Same(Some(begin)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn records(text: &str) -> Vec<Record> {
        let record = |byte: u8| Record { value: Some(vec![byte].into()), ..Record::default() };
        text.bytes().map(record).collect()
    }

    /// Offsets are twice the index.
    fn search(node: &str, wanted: &str, closed: Closed) -> Found {
        let wanted = records(wanted);
        let mut search = Search::new(&wanted);
        for (at, record) in records(node).iter().enumerate() {
            search.push(Offset(2 * at as i64), record);
        }
        search.end(closed)
    }

    fn parts(same: usize, node: Option<(i64, &'static str)>) -> Found {
        let record = |value: &'static str| Record {
            value: Some(Bytes::from_static(value.as_bytes())),
            ..Record::default()
        };
        let node = node.map(|(offset, value)| (Offset(offset), record(value)));
        Found::Parts(Parting { same, node })
    }

    const OPEN: Closed = Closed { begin: false, end: false };
    const CLOSED: Closed = Closed { begin: true, end: true };

    /// Goal: a run is found wherever it lies, however it overlaps with itself; where there is none,
    /// the longest beginning says where the two part.
    #[test]
    fn runs() {
        assert_eq!(search("abcabd", "abd", OPEN), Found::Same(Some(Offset(6))));
        assert_eq!(search("aaaab", "aab", OPEN), Found::Same(Some(Offset(4))));
        assert_eq!(search("abc", "", OPEN), Found::Same(None));
        assert_eq!(search("abcxab", "abcd", OPEN), parts(3, Some((6, "x"))));
        assert_eq!(search("xabc", "abcd", OPEN), parts(3, None));
        assert_eq!(search("xyz", "abc", OPEN), parts(0, Some((0, "x"))));
        assert_eq!(search("", "abc", OPEN), parts(0, None));
        assert_eq!(search("ababac", "ababx", OPEN), parts(4, Some((8, "a"))));
    }

    /// Goal: where nothing may lie before or behind, it does not.
    #[test]
    fn closed_ends() {
        assert_eq!(search("abc", "abc", CLOSED), Found::Same(Some(Offset(0))));
        assert_eq!(search("abcd", "abc", CLOSED), Found::Besides(1, Offset(0), Offset(6)));
        assert_eq!(search("abc", "", CLOSED), Found::Besides(3, Offset(0), Offset(4)));
        let (begin, end) = (Closed { begin: true, end: false }, Closed { begin: false, end: true });
        assert_eq!(search("abcd", "abc", begin), Found::Same(Some(Offset(0))));
        assert_eq!(search("abcd", "bcd", begin), Found::Besides(1, Offset(0), Offset(6)));
        assert_eq!(search("aabab", "ab", end), Found::Same(Some(Offset(6))));
        assert_eq!(search("aba", "ab", end), Found::Besides(1, Offset(0), Offset(4)));
    }
}
