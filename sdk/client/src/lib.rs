//! The client SDK of Weir.

mod admin;
mod backoff;
mod client;
mod config;
mod consumer;
mod error;
mod link;
mod producer;

pub use admin::Admin;
pub use client::Client;
pub use config::{ClientConfig, Pem, TlsConfig};
pub use consumer::{
    Batch, BatchStream, Consumer, ConsumerBuilder, ConsumerRecord, PartitionLag, PositionReset,
    RecordStream, ResetPolicy,
};
pub use error::{
    AssignError, CommitError, ConnectError, ConsumeError, DeliveryError, FlushError, RequestError,
    SendError,
};
pub use producer::{Delivery, Producer, ProducerBuilder, ProducerRecord, RecordMetadata};

pub use weir_core::record::{
    BatchBuilder, Compression, Header, NO_HEADERS, RecordBatch, RecordView,
};
pub use weir_core::topic::{Durability, TopicChange, TopicConfig};
pub use weir_core::wire::frame::Reached;
pub use weir_core::wire::message::{
    GroupInfo, GroupPosition, HelloReply, NodeStatus, PartitionStatus, Request, ResolvedOffset,
    Response, ShardStatus, StartAt, TopicInfo,
};
pub use weir_core::wire::{ErrorCode, Outcome, WireError};
pub use weir_core::{Offset, PartitionIndex, TimestampMs, TopicId};
