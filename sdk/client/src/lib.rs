//! The client SDK of Weir: produce, consume and administer, from async Rust, over QUIC.
//!
//! # Getting started
//!
//! A client needs two things: where the node is, and the certificate of the authority that issued
//! the node's (`tls/ca.pem` in the node's data folder; the node prints where at its first start).
//! Over loopback that is all; elsewhere a node wants to know its clients, and an operator issues
//! a certificate (`weir cert`), given by [`TlsConfig::with_identity`].
//!
//! ```no_run
//! use weir_client::{Client, ClientConfig, ProducerRecord, TlsConfig, TopicConfig};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let tls = TlsConfig::from_ca_file("/var/lib/weir/tls/ca.pem");
//! let client = Client::connect(ClientConfig::new("localhost:7447", tls)).await?;
//! client.admin().ensure_topic("greetings", TopicConfig::default()).await?;
//!
//! let producer = client.producer().build().await?;
//! let delivery = producer.send(ProducerRecord::new("greetings", "hello").with_key("en")).await?;
//! let stored = delivery.await?;
//! println!("on disk: {}/{} offset {}", stored.topic, stored.partition, stored.offset);
//!
//! let mut consumer = client.consumer().until_end(true).build();
//! consumer.assign_topics(&["greetings"]).await?;
//! while let Some(record) = consumer.next().await? {
//!     println!("{}: {:?}", record.offset, record.value);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! `examples/` has a program for each part: `produce`, `consume`, `group`, `admin`. All of it runs
//! on tokio, on either kind of runtime.
//!
//! # What is promised
//!
//! **Producing.** [`Producer::send`] accepts a record; it is *not* stored then. Its [`Delivery`]
//! resolves when it is:
//!
//! - `Ok`: the node has it on disk, and will still have it after a crash or a power cut. (On
//!   topics whose durability is relaxed, it may be in memory only; [`RecordMetadata::reached`]
//!   tells.)
//! - `Err` with [`Outcome::No`]: it is not stored and never will be.
//! - `Err` with [`Outcome::Unknown`]: nobody can tell, since the connection or the node was lost
//!   at the wrong moment and the delivery timeout passed before the answer could be had.
//!
//! In between, the SDK reconnects and sends again by itself. Batches are numbered, so the node
//! recognises what it has: **no record is stored twice**, however often it was sent. (Unless
//! *your program* sends it again, as after `Unknown`: that is a new record.) **Order** within a
//! partition is that of `send`, through all retries. A record that fails for good leaves no gap
//! that holds up the others.
//!
//! A process that dies loses what it has sent and not seen confirmed; started again, it cannot
//! tell which of that was stored. Keep what must not be lost until its delivery is `Ok`.
//!
//! **Consuming.** Records of a partition come in order, each once per run of the consumer, whatever
//! happens to connections and nodes meanwhile. There is no order between partitions. Under a group
//! name the node keeps positions, and a new run goes on at the last one stored: what was handed
//! out since then comes again (*at least once*). Store positions together with your results, or
//! make your work repeatable, if that matters.
//!
//! # Batches, latency and throughput
//!
//! Records travel in batches per partition. One is sent when it is full
//! ([`ProducerBuilder::batch_bytes`]), when its first record has waited for
//! [`ProducerBuilder::linger`] (5 ms), or *at once if nothing of its partition is under way*. So a
//! single record is not delayed, and the busier a producer is the larger its batches get. Fastest
//! of all are [`Producer::send_batch`] and [`Consumer::next_batch`], which cost nothing per record
//! but its encoding.
//!
//! Keys choose partitions as Kafka's Java client does (murmur2). Records without a key stay with a
//! partition for a batch or 5 ms, then go on to the next.
//!
//! Everything is bounded: [`ProducerBuilder::buffer_bytes`] (then `send` waits; that is the
//! backpressure) and [`ConsumerBuilder::prefetch_bytes`] (then the node waits).
//!
//! # Errors
//!
//! One enum per operation, and three questions that each can answer:
//!
//! - *Did it happen?* `outcome()`.
//! - *What kind is it?* `code()`: the node's stable code, explained in `docs/errors.md`.
//! - *May it be tried again?* `retryable()`. The SDK has done so for as long as the timeouts allow
//!   ([`ClientConfig::request_timeout`], [`ProducerBuilder::delivery_timeout`]); consumers try for
//!   ever. What a person must change (certificates, rights, names) fails at once.
//!
//! Progress and trouble on the way are told through `tracing`: at `warn` what is odd but gone on
//! from, at `debug` every reconnect.
//!
//! # Cancel safety
//!
//! Every future here may be dropped, as `tokio::select!` and timeouts do. What that means is said
//! at each: [`Consumer::next_batch`] and [`Consumer::next`] lose nothing; a [`Producer::send`]
//! that did not return did not accept the record; a dropped [`Delivery`] or
//! [`flush`](Producer::flush) changes nothing about what was accepted; a dropped request may have
//! been carried out.
//!
//! # Connections
//!
//! A [`Client`] has one connection for requests and producing, and each [`Consumer`] one of its
//! own: QUIC bounds what a connection may hold unread, so records that nobody reads would
//! otherwise hold up acknowledgements and commits. A change of the client's own address is
//! followed by QUIC; nothing is lost or reordered.

mod admin;
mod client;
mod config;
mod consumer;
mod deployments;
mod error;
mod link;
mod modules;
mod producer;
mod silence;

pub use admin::Admin;
pub use client::Client;
pub use config::{ClientConfig, Pem, TlsConfig};
pub use consumer::{
    Batch, BatchStream, Consumer, ConsumerBuilder, ConsumerRecord, MemberAssignment, PartitionLag,
    PositionReset, RecordStream, ResetPolicy,
};
pub use error::{
    AssignError, CommitError, ConnectError, ConsumeError, DeliveryError, FlushError, RequestError,
    SendError,
};
pub use producer::{Delivery, Producer, ProducerBuilder, ProducerRecord, RecordMetadata};

pub use weir_core::record::{
    BatchBuilder, Compression, Header, HeaderView, NO_HEADERS, RecordBatch, RecordView,
};
pub use weir_core::topic::{Durability, TopicChange, TopicConfig};
pub use weir_core::wire::frame::Reached;
pub use weir_core::wire::message::{
    GroupInfo, GroupMember, GroupMembers, GroupPosition, HelloReply, NodeStatus, PartitionStatus,
    Request, ResolvedOffset, Response, ShardStatus, StartAt, TopicInfo,
};
pub use weir_core::wire::{ErrorCode, Outcome, WireError};
pub use weir_core::{Offset, PartitionIndex, TimestampMs, TopicId};
