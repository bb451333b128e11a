//! Streams of frames from producers, as QUIC gives them: each frame once and in order, whatever the
//! network does, for as long as the process and the connection live.

use crate::ctx::Ctx;
use crate::event::{Addr, Message, Refusal};
use crate::node::Node;
use std::collections::BTreeMap;
use weir_core::ids::{Offset, PartitionId};

/// A client, and one of its connections.
type Connection = (Addr, u64);

/// All streams that a node has open.
#[derive(Default)]
pub(crate) struct Streams(BTreeMap<Connection, Stream>);

/// A connection's stream.
#[derive(Default)]
struct Stream {
    /// The number of the frame that is next.
    next: u64,
    /// Frames behind it.
    early: BTreeMap<u64, Message>,
    /// What was answered: told again where a frame comes again.
    answers: BTreeMap<u64, Message>,
}

impl Node {
    /// A frame arrived: those that are in order now are handled.
    pub(crate) fn handle_frame(
        &mut self,
        ctx: &mut Ctx,
        from: Addr,
        (connection, number): (u64, u64),
        frame: Message,
    ) {
        let stream = self.streams.0.entry((from, connection)).or_default();
        if number < stream.next {
            if let Some(answer) = stream.answers.get(&number) {
                ctx.send(self.addr, from, answer.clone());
            }
            return;
        }
        stream.early.insert(number, frame);
        loop {
            let Some(stream) = self.streams.0.get_mut(&(from, connection)) else { return };
            let Some(frame) = stream.early.remove(&stream.next) else { return };
            stream.next += 1;
            if let Message::Produce { partition, stream, correlation, batch, id } = frame {
                self.handle_produce(ctx, (from, stream, correlation), partition, (batch, id));
            }
        }
    }

    /// Answers a frame.
    pub(crate) fn answer_produced(
        &mut self,
        ctx: &mut Ctx,
        partition: PartitionId,
        (to, (connection, number), correlation): (Addr, (u64, u64), u64),
        result: Result<Offset, Refusal>,
    ) {
        let message = Message::Produced { partition, connection, correlation, result };
        if let Some(stream) = self.streams.0.get_mut(&(to, connection)) {
            stream.answers.insert(number, message.clone());
        }
        ctx.send(self.addr, to, message);
    }
}
