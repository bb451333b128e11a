//! What openraft sends to other controllers, over the node's [`Transport`](crate::Transport).
//!
//! Every failure counts as being out of reach, after which openraft pauses for a heartbeat: it
//! would try anything else again at once.

use crate::controller::Inner;
use crate::members::Failure;
use crate::raft::{Types, node};
use crate::wire::{Answer, PeerError, Request, SnapshotPart};
use openraft::error::{
    InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, SnapshotMismatch,
    Unreachable,
};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, RaftNetwork, RaftNetworkFactory, SnapshotSegmentId};
use std::sync::Arc;
use weir_core::ids::NodeId;

/// Makes the ways to other controllers.
pub struct Network(pub Arc<Inner>);

/// The way to one other controller.
pub struct Peer {
    inner: Arc<Inner>,
    to: NodeId,
}

type Error<E> = RPCError<u64, EmptyNode, RaftError<u64, E>>;

fn unreachable<E: std::error::Error>(failure: &Failure) -> Error<E> {
    RPCError::Unreachable(Unreachable::new(failure))
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _: &EmptyNode) -> Peer {
        // No member has a number that is not a node's: `wire` lets no such voter in.
        Peer { inner: self.0.clone(), to: node(target).unwrap_or(NodeId(u32::MAX)) }
    }
}

impl Peer {
    async fn call(&self, request: &Request) -> Result<Answer, Failure> {
        self.inner.call(self.to, request).await
    }

    /// An answer to another question.
    fn strange<E: std::error::Error>(&self) -> Error<E> {
        let error = PeerError::Malformed("an answer to another question".to_owned());
        unreachable(&Failure::Peer { to: self.to, error })
    }
}

impl RaftNetwork<Types> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Error<openraft::error::Infallible>> {
        match self.call(&Request::Append(request)).await {
            Ok(Answer::Append { answer, life }) => {
                self.inner.heard.answered(self.to, life);
                Ok(answer)
            }
            Ok(_) => Err(self.strange()),
            Err(failure) => Err(unreachable(&failure)),
        }
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<Types>,
        _: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Error<InstallSnapshotError>> {
        let InstallSnapshotRequest { vote, meta, offset: at, data, done } = request;
        let end = at + data.len() as u64;
        let id = meta.snapshot_id.clone();
        let part = SnapshotPart { vote, meta, at, done, data: data.into() };
        match self.call(&Request::Snapshot(part)).await {
            Ok(Answer::Snapshot { vote: newest, next }) if newest > vote || next == end => {
                Ok(InstallSnapshotResponse { vote: newest })
            }
            // It has another part of it, or none: openraft begins anew.
            Ok(Answer::Snapshot { next, .. }) => {
                let expect = SnapshotSegmentId { id: id.clone(), offset: next };
                let mismatch =
                    SnapshotMismatch { expect, got: SnapshotSegmentId { id, offset: at } };
                let error = RaftError::APIError(InstallSnapshotError::SnapshotMismatch(mismatch));
                Err(RemoteError::new(u64::from(self.to.0), error).into())
            }
            Ok(_) => Err(self.strange()),
            // A part that was lost is sent again, sooner than a heartbeat.
            Err(failure) => Err(RPCError::Network(NetworkError::new(&failure))),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        _: RPCOption,
    ) -> Result<VoteResponse<u64>, Error<openraft::error::Infallible>> {
        match self.call(&Request::Vote(request)).await {
            Ok(Answer::Vote(answer)) => Ok(answer),
            Ok(_) => Err(self.strange()),
            Err(failure) => Err(unreachable(&failure)),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(self.inner.config.timing.heartbeat))
    }
}
