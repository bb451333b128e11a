//! What arrives on streams: frames, control messages, the headers of the hot paths.

use crate::samples::batch;
use crate::samples::messages as samples;
use crate::{Target, Verdict, memory_in_proportion, no_repair};
use bytes::Bytes;
use std::fmt::Debug;
use weir_core::metadata::Change;
use weir_core::record::Compression;
use weir_core::wire::frame::{DataHeader, ProduceAck, ProduceHeader};
use weir_core::wire::message::{
    Hello, HelloReply, ProduceOpen, Request, Response, Subscribe, Subscribed,
};
use weir_core::wire::{FrameKind, WireError};
use weir_transport::control::{decode, encode};
use weir_transport::{FrameDecoder, HEADER_BYTES};

/// Names of fields and variants: half of what CBOR text is.
const WORDS: &[&str] = &[
    "\u{1}",
    "earliest",
    "offset",
    "time",
    "names",
    "config",
    "partitions",
    "topics",
    "error",
    "status",
    "code",
    "message",
    "outcome",
    "unknown",
    "hello",
    "\u{7f}",
    "version_max",
];

const CONTROL: Target = Target {
    name: "",
    check: |_| Verdict::Refused,
    seeds: Vec::new,
    repair: no_repair,
    words: WORDS,
    memory_bytes_max: memory_in_proportion,
};

pub(super) const TARGETS: &[Target] = &[
    Target {
        name: "frames",
        check: check_frames,
        seeds: || {
            let hello = encode(&samples::hello()).expect("encodes");
            let produced = [&samples::produce_header().encode()[..], &batch(Compression::None)];
            let one = samples::frame(FrameKind::Hello, &hello);
            let two = samples::frame(FrameKind::Produce, &produced.concat());
            let three = samples::frame(FrameKind::Heartbeat, &samples::data_header().encode());
            vec![[one, two, three.clone()].concat(), three]
        },
        words: &[],
        ..CONTROL
    },
    Target {
        name: "hello",
        check: check_control::<Hello>,
        seeds: || vec![bytes_of(&samples::hello())],
        ..CONTROL
    },
    Target {
        name: "hello-reply",
        check: check_control::<HelloReply>,
        seeds: || vec![bytes_of(&samples::hello_reply())],
        ..CONTROL
    },
    Target {
        name: "request",
        check: check_control::<Request>,
        seeds: || samples::requests().iter().map(bytes_of).collect(),
        ..CONTROL
    },
    Target {
        name: "response",
        check: check_control::<Response>,
        seeds: || samples::responses().iter().map(bytes_of).collect(),
        ..CONTROL
    },
    Target {
        name: "subscribe",
        check: check_control::<Subscribe>,
        seeds: || {
            let start_at = |start| Subscribe { start, ..samples::subscribe() };
            samples::starts().map(|start| bytes_of(&start_at(start))).into()
        },
        ..CONTROL
    },
    Target {
        name: "subscribed",
        check: check_control::<Subscribed>,
        seeds: || vec![bytes_of(&samples::subscribed())],
        ..CONTROL
    },
    Target {
        name: "produce-open",
        check: check_control::<ProduceOpen>,
        seeds: || vec![bytes_of(&ProduceOpen::default())],
        ..CONTROL
    },
    Target {
        name: "wire-error",
        check: check_control::<WireError>,
        seeds: || vec![bytes_of(&samples::wire_error())],
        ..CONTROL
    },
    Target {
        name: "metadata-change",
        check: check_control::<Change>,
        seeds: || {
            let removed = Change::Removed { name: "vehicles.gps".into() };
            vec![bytes_of(&samples::topic_put()), bytes_of(&removed)]
        },
        ..CONTROL
    },
    Target {
        name: "produce-acks",
        check: check_acks,
        seeds: || vec![samples::acks_encoded(&samples::acks())],
        words: &[],
        ..CONTROL
    },
    Target {
        name: "hot-headers",
        check: check_headers,
        seeds: || {
            vec![samples::produce_header().encode().into(), samples::data_header().encode().into()]
        },
        words: &[],
        ..CONTROL
    },
];

/// The trait that every control message has.
pub trait Message: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug {}
impl<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug> Message for T {}

fn bytes_of<T: Message>(message: &T) -> Vec<u8> {
    encode(message).expect("samples can be encoded").to_vec()
}

/// What was decoded is the same after another round.
pub fn check_control<T: Message>(input: &[u8]) -> Verdict {
    let Ok(message) = decode::<T>(input) else { return Verdict::Refused };
    let encoded = encode(&message).expect("what was decoded can be encoded");
    assert_eq!(decode::<T>(&encoded).as_ref(), Ok(&message));
    Verdict::Accepted
}

fn check_acks(input: &[u8]) -> Verdict {
    let mut rest = Bytes::copy_from_slice(input);
    let mut acks = Vec::new();
    while let Some(ack) = ProduceAck::decode(&mut rest) {
        acks.push(ack);
    }
    let encoded = samples::acks_encoded(&acks);
    let mut again = Bytes::from(encoded);
    for ack in &acks {
        assert_eq!(ProduceAck::decode(&mut again).as_ref(), Some(ack));
    }
    assert!(again.is_empty());
    if acks.is_empty() { Verdict::Refused } else { Verdict::Accepted }
}

fn check_headers(input: &[u8]) -> Verdict {
    let produce = ProduceHeader::decode(input);
    let data = DataHeader::decode(input);
    assert_eq!(produce.is_some(), input.len() >= ProduceHeader::BYTES);
    assert_eq!(data.is_some(), input.len() >= DataHeader::BYTES);
    if let Some(header) = produce {
        assert!(input.starts_with(&header.encode()));
    }
    if let Some(header) = data {
        assert!(input.starts_with(&header.encode()));
    }
    if produce.is_some() { Verdict::Accepted } else { Verdict::Refused }
}

/// Most bytes of a body that the frame target allows.
const BODY_BYTES_MAX: usize = 256 * 1024;

type Frames = Vec<(u8, u8, Bytes)>;

/// Frames come out the same however the stream is cut into chunks.
fn check_frames(input: &[u8]) -> Verdict {
    let whole = frames_of(input, usize::MAX, Way::Body);
    for (chunk, way) in
        [(1, Way::Body), (3, Way::Owned), (HEADER_BYTES + 1, Way::Room), (1_000, Way::Room)]
    {
        assert_eq!(frames_of(input, chunk, way), whole, "chunks of {chunk}, {way:?}");
    }
    let (frames, clean) = whole;
    if clean && !frames.is_empty() { Verdict::Accepted } else { Verdict::Refused }
}

/// How bodies are taken: as slices, as memory of their own, or read into place.
#[derive(Clone, Copy, Debug)]
enum Way {
    Body,
    Owned,
    Room,
}

/// The frames of `input`, and whether it ended between two.
fn frames_of(mut input: &[u8], chunk: usize, way: Way) -> (Frames, bool) {
    let mut decoder = FrameDecoder::new();
    let mut frames = Frames::new();
    loop {
        let header = match decoder.header(BODY_BYTES_MAX) {
            Ok(header) => header,
            Err(error) => {
                assert!(error.is_protocol_error());
                return (frames, false);
            }
        };
        let body = match way {
            Way::Body => decoder.body(),
            Way::Owned | Way::Room => decoder.body_mut().map(bytes::BytesMut::freeze),
        };
        if let (Some(header), Some(body)) = (header, body) {
            assert_eq!(header.length, body.len());
            frames.push((header.kind, header.flags, body));
            continue;
        }
        if input.is_empty() {
            return (frames, decoder.is_between_frames());
        }
        let mut take = chunk.min(input.len());
        match decoder.room().filter(|_| matches!(way, Way::Room)) {
            Some(mut room) => {
                take = take.min(bytes::BufMut::remaining_mut(&room));
                assert!(take > 0, "room takes at least one byte");
                bytes::BufMut::put_slice(&mut room, &input[..take]);
            }
            None => decoder.feed(Bytes::copy_from_slice(&input[..take])),
        }
        input = &input[take..];
    }
}
