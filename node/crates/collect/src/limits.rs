//! Every bound of this crate. An input can fill none of its buffers beyond these.

/// Longest line of any input, in bytes; the rest of a longer one is cut away and counted.
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// Longest joined record (several lines of a log, or one CSV row), in bytes.
pub const RECORD_BYTES_MAX: usize = 256 * 1024;
/// Most lines joined into one record.
pub const RECORD_LINES_MAX: usize = 1_024;
/// Bytes that a source reads at once and hands over as one chunk.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks that wait between a source and its [`Collector`](crate::Collector).
pub const CHANNEL_CHUNKS: usize = 8;
/// Largest UDP datagram: the largest that UDP can carry.
pub const DATAGRAM_BYTES_MAX: usize = 65_535;
/// Longest NMEA sentence that is parsed, in bytes, tag blocks included. The standard says 82;
/// real receivers send up to a few hundred.
pub const SENTENCE_BYTES_MAX: usize = 1_024;
/// Most NMEA devices (tag block sources or UDP senders) whose epochs are merged at once. One
/// more ends the epoch that was touched the longest ago.
pub const DEVICES_MAX: usize = 1_024;
/// Longest name of a device or a source, in bytes.
pub const DEVICE_NAME_BYTES_MAX: usize = 64;
/// Most columns of a CSV header.
pub const COLUMNS_MAX: usize = 4_096;
/// Most files that one [`Follow`](crate::Follow) follows.
pub const FILES_MAX: usize = 1_024;
/// Most entries of a folder that are looked at to find a rotated file again.
pub const FOLDER_ENTRIES_MAX: usize = 65_536;
/// Most rotated files that are read between two looks at a followed one.
pub const ROTATED_MAX: usize = 64;
/// Bytes at the start of a file that tell it from another with the same inode.
pub const FINGERPRINT_BYTES: usize = 256;
/// Longest text that is taken for a time.
pub const TIME_BYTES_MAX: usize = 64;
/// Most devices of one [`Simulator`](crate::simulate::Simulator).
pub const SIMULATED_DEVICES_MAX: usize = 10_000;

const _: () = assert!(SENTENCE_BYTES_MAX <= LINE_BYTES_MAX);
const _: () = assert!(LINE_BYTES_MAX <= RECORD_BYTES_MAX);
