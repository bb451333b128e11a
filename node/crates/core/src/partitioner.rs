//! Which partition a record goes to.
//!
//! Records with a key go where Kafka's Java client would send them: murmur2 of the key, modulo the
//! number of partitions. So a topic filled by both keeps each key in one partition. Records without
//! a key go to one partition until its batch is closed, then to the next one: large batches, evenly
//! spread.

use crate::ids::PartitionIndex;

/// 32-bit MurmurHash2 of `data`, with the seed and byte order of Kafka's Java client
/// (`org.apache.kafka.common.utils.Utils.murmur2`).
#[must_use]
pub fn murmur2(data: &[u8]) -> i32 {
    const SEED: u32 = 0x9747_b28c;
    const MIX: u32 = 0x5bd1_e995;
    const SHIFT: u32 = 24;

    let mut hash = SEED ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut mixed = u32::from_le_bytes(*word).wrapping_mul(MIX);
        mixed = (mixed ^ (mixed >> SHIFT)).wrapping_mul(MIX);
        hash = hash.wrapping_mul(MIX) ^ mixed;
    }
    if !tail.is_empty() {
        let mut last = [0; 4];
        last[..tail.len()].copy_from_slice(tail);
        hash = (hash ^ u32::from_le_bytes(last)).wrapping_mul(MIX);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(MIX);
    (hash ^ (hash >> 15)).cast_signed()
}

/// The partition, of `partitions`, for records with this key. With 0 partitions, as with one,
/// partition 0.
#[must_use]
pub fn partition_for_key(key: &[u8], partitions: u32) -> PartitionIndex {
    // Dropping the sign bit is what the Java client calls "to positive"; it is no absolute value.
    let positive = murmur2(key).cast_unsigned() & 0x7fff_ffff;
    PartitionIndex(positive % partitions.max(1))
}

/// Chooses partitions for records without a key: one until its batch is closed, then the next.
#[derive(Clone, Debug)]
pub struct StickyPartitioner {
    turn: u32,
}

impl StickyPartitioner {
    /// Begins at partition `start`, modulo how many there are. Give producers different starts,
    /// or their first batches all go to the same partition.
    #[must_use]
    pub fn new(start: u32) -> StickyPartitioner {
        StickyPartitioner { turn: start }
    }

    /// The partition, of `partitions`, that records go to for now. The number of partitions may
    /// change between calls. With 0 partitions, as with one, partition 0.
    #[must_use]
    pub fn current(&self, partitions: u32) -> PartitionIndex {
        PartitionIndex(self.turn % partitions.max(1))
    }

    /// Goes on to the next partition if `closed`, whose batch was just closed, is the current
    /// one. Otherwise nothing changes: batches with keys close, too.
    pub fn on_batch_closed(&mut self, closed: PartitionIndex, partitions: u32) {
        if closed == self.current(partitions) {
            self.turn = (closed.0 + 1) % partitions.max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of the Java client's own tests (`UtilsTest.testMurmur2`).
    #[test]
    fn murmur2_is_that_of_the_java_client() {
        let vectors: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
        ];
        for (data, hash) in vectors {
            assert_eq!(murmur2(data), hash, "{}", String::from_utf8_lossy(data));
        }
    }

    /// A negative hash loses its sign bit; it is not negated.
    #[test]
    fn a_key_always_gets_the_same_partition() {
        assert_eq!(partition_for_key(b"21", 10).0, ((-973_932_308_i64 + (1 << 31)) % 10) as u32);
        assert_eq!(partition_for_key(b"abc", 1_000), PartitionIndex(107));
        assert_eq!(partition_for_key(b"foobar", 1), PartitionIndex(0));
        assert_eq!(partition_for_key(b"foobar", 0), PartitionIndex(0));
    }

    /// Every partition gets its turn, and a batch of another partition changes nothing.
    #[test]
    fn the_sticky_partitioner_goes_round() {
        let mut sticky = StickyPartitioner::new(7);
        let mut seen = Vec::new();
        for _ in 0..4 {
            let now = sticky.current(3);
            assert_eq!(sticky.current(3), now, "no change before the batch is closed");
            sticky.on_batch_closed(PartitionIndex((now.0 + 1) % 3), 3);
            assert_eq!(sticky.current(3), now, "another partition's batch");
            sticky.on_batch_closed(now, 3);
            seen.push(now.0);
        }
        assert_eq!(seen, [1, 2, 0, 1]);
    }

    /// Partitions are added, or the metadata is not there yet.
    #[test]
    fn the_sticky_partitioner_follows_the_partition_count() {
        let mut sticky = StickyPartitioner::new(u32::MAX);
        assert_eq!(sticky.current(0), PartitionIndex(0));
        sticky.on_batch_closed(PartitionIndex(0), 0);
        sticky.on_batch_closed(PartitionIndex(0), 5);
        assert_eq!(sticky.current(5), PartitionIndex(1));
        assert_eq!(sticky.current(1), PartitionIndex(0));
    }
}
