//! A consumer as a `Stream`, of batches or of records.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::{Batch, Consumer, ConsumerRecord};
use crate::error::ConsumeError;

/// What [`Consumer::next_batch`] returns, as a stream. Ends where that says `None`; errors do not
/// end it. Dropping it loses nothing.
#[derive(Debug)]
pub struct BatchStream<'a> {
    consumer: &'a mut Consumer,
}

impl<'a> BatchStream<'a> {
    pub(super) fn new(consumer: &'a mut Consumer) -> BatchStream<'a> {
        BatchStream { consumer }
    }
}

impl Stream for BatchStream<'_> {
    type Item = Result<Batch, ConsumeError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.consumer.poll_batch(context).map(Result::transpose)
    }
}

/// What [`Consumer::next`] returns, as a stream. Ends where that says `None`; errors do not end
/// it. Dropping it loses nothing.
#[derive(Debug)]
pub struct RecordStream<'a> {
    consumer: &'a mut Consumer,
}

impl<'a> RecordStream<'a> {
    pub(super) fn new(consumer: &'a mut Consumer) -> RecordStream<'a> {
        RecordStream { consumer }
    }
}

impl Stream for RecordStream<'_> {
    type Item = Result<ConsumerRecord, ConsumeError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.consumer.poll_record(context).map(Result::transpose)
    }
}
