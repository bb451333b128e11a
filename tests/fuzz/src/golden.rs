//! Golden files: encodings as a released version wrote them, kept for all later ones to read.
//!
//! `tests/golden/vN/` holds what version N of the formats looks like. A folder is written once
//! (`cargo xtask golden frames vN`) and never changed; a format change adds a folder.

use crate::hex;
use crate::samples::{self, messages, replica, storage};
use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use weir_core::entry::{ENTRY_HEADER_BYTES, EntryHeader, decode_state};
use weir_core::partition::messages::FollowAnswer;
use weir_core::partition::view::PartitionView;
use weir_core::record::{Compression, RecordBatch};
use weir_core::wire::frame::{DataHeader, ProduceAck, ProduceHeader};
use weir_core::wire::message::{
    Hello, HelloReply, ProduceOpen, Request, Response, Subscribe, Subscribed,
};
use weir_core::wire::replica::{DeliverHeader, FetchEntries, FollowOpen};
use weir_core::wire::{FrameKind, WireError};
use weir_transport::{FrameDecoder, control};

/// One golden file.
pub struct Case {
    /// The file's name without its ending.
    pub name: String,
    /// What is in it, for the first line of the file.
    pub about: String,
    /// The encoding by this version.
    pub bytes: Vec<u8>,
    /// Decodes bytes and describes the value in full.
    pub read: fn(&[u8]) -> Result<String>,
    /// Whether every version must write the same bytes. Not so for what compressors make.
    pub exact: bool,
}

/// Where the golden files of all versions are.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden")
}

/// Every golden file of this version.
pub fn cases() -> Vec<Case> {
    let mut cases = batches();
    cases.extend(stored());
    cases.extend(frames());
    cases
}

/// Writes all golden files to a folder that must not hold any yet.
///
/// # Errors
/// If there are some, or one cannot be written.
pub fn write(folder: &Path) -> Result<usize> {
    std::fs::create_dir_all(folder)?;
    let cases = cases();
    for case in &cases {
        let path = folder.join(format!("{}.hex", case.name));
        ensure!(!path.exists(), "{} exists: golden files never change", path.display());
        let text = format!("# {}\n{}", case.about, hex::encode_lines(&case.bytes));
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(cases.len())
}

fn case(name: &str, about: &str, bytes: Vec<u8>, read: fn(&[u8]) -> Result<String>) -> Case {
    Case { name: name.into(), about: about.into(), bytes, read, exact: true }
}

fn batches() -> Vec<Case> {
    let mut cases: Vec<Case> = Compression::ALL
        .map(|way| {
            let name = format!("batch-{way}");
            let about = format!("A record batch of five records, compression {way}.");
            let exact = way == Compression::None;
            Case { exact, ..case(&name, &about, samples::batch(way).to_vec(), read_batch) }
        })
        .into();
    let about = "A record batch of an idempotent producer; its sequence wraps around.";
    let bytes = samples::batch_idempotent().to_vec();
    cases.push(case("batch-idempotent", about, bytes, read_batch));
    cases
}

fn stored() -> Vec<Case> {
    let mut cases: Vec<Case> = storage::KINDS
        .map(|kind| {
            let name = format!("entry-{kind:?}").to_lowercase();
            let about = format!("The envelope and sections of a log entry, kind {kind:?}.");
            case(&name, &about, storage::entry(kind), read_entry)
        })
        .into();
    let about = "The view of a partition, as the state database keeps it.";
    cases.push(case("partition-view", about, storage::view().encode().to_vec(), |bytes| {
        let view = PartitionView::decode(bytes).context("no view")?;
        // Tables of producers have no order in memory; their encoding has.
        let producers = hex::encode(&view.encode());
        Ok(format!("{:?} {:?} {:?} {producers}", view.log_start, view.log_end, view.epochs))
    }));
    cases
}

fn frames() -> Vec<Case> {
    let mut cases = vec![
        control_case("hello", FrameKind::Hello, &messages::hello(), read_control::<Hello>),
        control_case(
            "hello-reply",
            FrameKind::HelloReply,
            &messages::hello_reply(),
            read_control::<HelloReply>,
        ),
        control_case(
            "produce-open",
            FrameKind::ProduceOpen,
            &ProduceOpen::default(),
            read_control::<ProduceOpen>,
        ),
        control_case(
            "subscribed",
            FrameKind::Subscribed,
            &messages::subscribed(),
            read_control::<Subscribed>,
        ),
        control_case("error", FrameKind::Error, &messages::wire_error(), read_control::<WireError>),
        control_case("follow", FrameKind::Follow, &replica::follow(), read_control::<FollowOpen>),
    ];
    for (n, answer) in replica::answers().iter().enumerate() {
        let name = format!("follow-answer-{:02}", n + 1);
        let kind = FrameKind::FollowAnswer;
        cases.push(control_case(&name, kind, answer, read_control::<FollowAnswer>));
    }
    for (n, request) in messages::requests().iter().enumerate() {
        let name = format!("request-{:02}-{}", n + 1, variant(request));
        cases.push(control_case(&name, FrameKind::Request, request, read_control::<Request>));
    }
    for (n, response) in messages::responses().iter().enumerate() {
        let name = format!("response-{:02}-{}", n + 1, variant(response));
        cases.push(control_case(&name, FrameKind::Response, response, read_control::<Response>));
    }
    for (n, start) in messages::starts().into_iter().enumerate() {
        let subscribe = Subscribe { start, ..messages::subscribe() };
        let name = format!("subscribe-{:02}-{}", n + 1, variant(&start));
        cases.push(control_case(
            &name,
            FrameKind::Subscribe,
            &subscribe,
            read_control::<Subscribe>,
        ));
    }
    cases.push(control_case(
        "fetch-entries",
        FrameKind::FetchEntries,
        &replica::fetch(),
        read_control::<FetchEntries>,
    ));
    cases.push(control_case(
        "subscribe-filtered",
        FrameKind::Subscribe,
        &messages::subscribe_filtered(),
        read_control::<Subscribe>,
    ));
    let batch = samples::batch(Compression::None);
    let hot = |name: &str, kind: FrameKind, body: &[u8], read| {
        let about = format!("A whole frame of kind {} ({kind:?}).", kind as u8);
        case(&format!("frame-{name}"), &about, messages::frame(kind, body), read)
    };
    let produce = [&messages::produce_header().encode()[..], &batch].concat();
    cases.push(hot("produce", FrameKind::Produce, &produce, |bytes| {
        let body = body(bytes)?;
        let header = ProduceHeader::decode(&body).context("no header")?;
        Ok(format!("{header:?} {}", read_batch(&body[ProduceHeader::BYTES..])?))
    }));
    let deliver = [&replica::deliver().encode()[..], &batch].concat();
    cases.push(hot("deliver", FrameKind::Deliver, &deliver, |bytes| {
        let body = body(bytes)?;
        let header = DeliverHeader::decode(&body).context("no header")?;
        Ok(format!("{header:?} {}", read_batch(&body[DeliverHeader::BYTES..])?))
    }));
    let data = [&messages::data_header().encode()[..], &batch].concat();
    cases.push(hot("data", FrameKind::Data, &data, |bytes| {
        let body = body(bytes)?;
        let header = DataHeader::decode(&body).context("no header")?;
        Ok(format!("{header:?} {}", read_batch(&body[DataHeader::BYTES..])?))
    }));
    let heartbeat = messages::data_header().encode();
    cases.push(hot("heartbeat", FrameKind::Heartbeat, &heartbeat, |bytes| {
        Ok(format!("{:?}", DataHeader::decode(&body(bytes)?)))
    }));
    let acks = messages::acks_encoded(&messages::acks());
    cases.push(hot("produce-ack", FrameKind::ProduceAck, &acks, |bytes| {
        let mut rest = body(bytes)?;
        let acks: Vec<_> = std::iter::from_fn(|| ProduceAck::decode(&mut rest)).collect();
        ensure!(rest.is_empty(), "{} bytes left", rest.len());
        Ok(format!("{acks:?}"))
    }));
    cases
}

/// The first word of a value's description, in lower case.
fn variant(value: &impl Debug) -> String {
    let text = format!("{value:?}");
    text.chars().take_while(char::is_ascii_alphanumeric).collect::<String>().to_lowercase()
}

fn control_case<T: serde::Serialize>(
    name: &str,
    kind: FrameKind,
    message: &T,
    read: fn(&[u8]) -> Result<String>,
) -> Case {
    let body = control::encode(message).expect("samples can be encoded");
    let about = format!("A whole frame of kind {} ({kind:?}); its body is CBOR.", kind as u8);
    case(&format!("frame-{name}"), &about, messages::frame(kind, &body), read)
}

fn read_control<T: serde::de::DeserializeOwned + Debug>(bytes: &[u8]) -> Result<String> {
    Ok(format!("{:?}", control::decode::<T>(&body(bytes)?)?))
}

/// The body of the one frame that `bytes` are.
fn body(bytes: &[u8]) -> Result<Bytes> {
    let mut decoder = FrameDecoder::new();
    decoder.feed(Bytes::copy_from_slice(bytes));
    let header = decoder.header(bytes.len())?.context("no frame")?;
    FrameKind::from_u8(header.kind).ok_or_else(|| anyhow!("unknown kind {}", header.kind))?;
    let body = decoder.body().context("a frame cut short")?;
    ensure!(decoder.is_between_frames(), "bytes follow the frame");
    Ok(body)
}

fn read_batch(bytes: &[u8]) -> Result<String> {
    let batch = RecordBatch::decode(Bytes::copy_from_slice(bytes))?;
    let records = batch.records()?;
    let own: Vec<_> = records.iter_shared().collect();
    let header = batch.header();
    // Length and checksum of a compressed batch depend on the compressor.
    Ok(format!(
        "{:?} {:?} {:?} {:?} {} {} {own:?}",
        header.base_offset,
        header.epoch,
        batch.compression(),
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
    ))
}

fn read_entry(bytes: &[u8]) -> Result<String> {
    let header = EntryHeader::decode(bytes)?;
    let state_end = ENTRY_HEADER_BYTES + header.state_len as usize;
    let state = decode_state(&Bytes::copy_from_slice(&bytes[ENTRY_HEADER_BYTES..state_end]))?;
    let source = hex::encode(&bytes[state_end..header.batch_at()]);
    Ok(format!("{header:?} {state:?} {source}"))
}
