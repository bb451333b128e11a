//! Handing out: frames off the queue, batches off frames, records off batches.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use weir_core::Offset;
use weir_core::record::{BatchError, RecordBatch, split_batch};

use super::reader::{Event, News, Source};
use super::{Batch, Consumer, ConsumerRecord, Frame, RESETS_MAX};
use crate::error::ConsumeError;

impl Consumer {
    /// Polls for what [`Consumer::next_batch`] returns.
    pub(super) fn poll_batch(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Batch>, ConsumeError>> {
        self.handed_out_is_done();
        if let Some(batch) = self.rest_of_records() {
            return Poll::Ready(Ok(Some(self.hand_out(batch))));
        }
        loop {
            if self.membership.is_some() {
                self.poll_membership(context)?;
            }
            if let Some(result) = self.cut() {
                return Poll::Ready(result.map(|batch| Some(self.hand_out(batch))));
            }
            while let Poll::Ready(Some(topic)) = self.grown.poll_recv(context) {
                self.handle_grown(&topic);
            }
            if self.running == 0 && !self.may_get_more() {
                return Poll::Ready(Ok(None));
            }
            // This consumer holds a sender itself, so the queue does not end.
            if let Some(event) = ready!(self.events.poll_recv(context)) {
                self.handle_event(event)?;
            }
        }
    }

    /// Polls for what [`Consumer::next`] returns.
    pub(super) fn poll_record(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<ConsumerRecord>, ConsumeError>> {
        self.handed_out_is_done();
        loop {
            if let (Some(record), Some(batch)) = (self.records.pop_front(), &self.record_batch) {
                if let Some(slot) = self.slot(&batch.topic, batch.partition) {
                    let next = record.offset.plus(1);
                    self.note_handed(slot, next);
                }
                return Poll::Ready(Ok(Some(record)));
            }
            self.record_batch = None;
            let Some(batch) = ready!(self.poll_batch(context))? else {
                return Poll::Ready(Ok(None));
            };
            // Nothing of it was handed out yet.
            if let Some((slot, _)) = self.handed_out.take() {
                let first = batch.first_offset();
                self.partitions[slot].position = Some(first);
                if self.membership.is_some() {
                    self.positions.handed(slot, first);
                }
            }
            self.records = batch.owned_records().collect();
            self.record_batch = Some(batch);
        }
    }

    /// What is left of a batch that was being handed out record by record.
    fn rest_of_records(&mut self) -> Option<Batch> {
        let mut batch = self.record_batch.take()?;
        let left = std::mem::take(&mut self.records).len();
        batch.skip = batch.records.len() - left;
        (left > 0).then_some(batch)
    }

    fn hand_out(&mut self, batch: Batch) -> Batch {
        if let Some(slot) = self.slot(&batch.topic, batch.partition) {
            self.note_handed(slot, batch.end_offset());
        }
        batch
    }

    fn note_handed(&mut self, slot: usize, next: Offset) {
        self.partitions[slot].position = Some(next);
        self.handed_out = Some((slot, next));
        if self.membership.is_some() {
            self.positions.handed(slot, next);
        }
    }

    /// The application asked for more, or to commit: it is done with what it had.
    pub(super) fn handed_out_is_done(&mut self) {
        if let Some((slot, next)) = self.handed_out.take() {
            self.positions.done(slot, next);
        }
    }

    /// Cuts the next batch off the current frame; `None` if there is nothing left.
    fn cut(&mut self) -> Option<Result<Batch, ConsumeError>> {
        loop {
            let frame = self.current.as_mut()?;
            let (slot, next_offset) = (frame.slot, frame.header.next_offset);
            let cut = split_batch(&mut frame.batches);
            let Some(cut) = cut else {
                self.current = None;
                self.move_on(slot, next_offset);
                return None;
            };
            match cut.and_then(|bytes| self.wanted(slot, bytes)) {
                Ok(Some(batch)) => return Some(Ok(batch)),
                Ok(None) => {}
                Err(error) if self.settings.skip_damage => {
                    let Source { topic, partition, .. } = &*self.partitions[slot].source;
                    tracing::warn!(%topic, partition, %error, "skipped an invalid batch");
                }
                Err(error) => {
                    let assigned = &self.partitions[slot];
                    let error = ConsumeError::InvalidBatch {
                        topic: assigned.source.topic.clone(),
                        partition: assigned.source.partition,
                        at: assigned.position.unwrap_or_default(),
                        resume_at: next_offset,
                        error,
                    };
                    self.stop(slot);
                    return Some(Err(error));
                }
            }
        }
    }

    /// Checks a batch; `None` if nothing of it is wanted.
    fn wanted(&self, slot: usize, bytes: Bytes) -> Result<Option<Batch>, BatchError> {
        let assigned = &self.partitions[slot];
        let frame = self.current.as_ref();
        let (batch, records) = RecordBatch::decode_with_records(bytes)?;
        let header = batch.header();
        let position = assigned.position.unwrap_or(header.base_offset);
        if header.is_control() || header.end_offset() <= position {
            return Ok(None);
        }
        let skip = match header.is_dense() {
            true => position.since(header.base_offset) as usize,
            false => records.iter().take_while(|record| record.offset < position).count(),
        };
        if skip >= records.len() {
            return Ok(None);
        }
        let data = frame.map(|frame| frame.header);
        Ok(Some(Batch {
            topic: assigned.source.topic.clone(),
            partition: assigned.source.partition,
            high_watermark: data.map_or(Offset::ZERO, |data| data.high_watermark),
            log_start: data.map_or(Offset::ZERO, |data| data.log_start),
            batch,
            records,
            skip,
        }))
    }

    fn handle_event(&mut self, event: Event) -> Result<(), ConsumeError> {
        let Event { slot, generation, news, permit } = event;
        drop(permit);
        // News of a reader that was stopped is no news.
        let known = self.partitions.get_mut(slot);
        let Some(assigned) = known.filter(|assigned| assigned.generation == generation) else {
            return Ok(());
        };
        match news {
            News::Start(offset) => assigned.position = Some(offset),
            News::Frame(header, batches) => self.current = Some(Frame { slot, header, batches }),
            News::Moved(next) => self.move_on(slot, next),
            News::Reset(reset) => {
                if self.resets.len() == RESETS_MAX {
                    self.resets.pop_front();
                }
                self.resets.push_back(reset);
            }
            News::End => self.stop(slot),
            News::Failed(error) => {
                self.stop(slot);
                return Err(error);
            }
        }
        Ok(())
    }

    /// There is nothing for the application before `next`.
    fn move_on(&mut self, slot: usize, next: Offset) {
        let assigned = &mut self.partitions[slot];
        if assigned.position.is_some_and(|position| position < next) {
            assigned.position = Some(next);
            // Waits its turn behind the batch that the application is at.
            match &mut self.handed_out {
                Some((at, done)) if *at == slot => *done = next,
                _ => self.positions.done(slot, next),
            }
        }
    }
}
