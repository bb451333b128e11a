//! The way to other controllers, which the node provides.

use bytes::Bytes;
use std::future::Future;
use std::pin::Pin;
use weir_core::ids::NodeId;

/// Takes requests to other nodes and brings their answers.
pub trait Transport: Send + Sync + 'static {
    /// Sends a request of at most [`weir_core::limits::CONTROLLER_MESSAGE_BYTES_MAX`] bytes to what
    /// is [`crate::Controller::handle`] there, and waits for the answer. The caller bounds the time
    /// by dropping the future, which may lose the answer but must harm nothing else.
    ///
    /// # Errors
    /// [`CallError`].
    fn call(
        &self,
        to: NodeId,
        request: Bytes,
    ) -> impl Future<Output = Result<Bytes, CallError>> + Send;
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request was not sent, and will not arrive.
    #[error("node {to} is out of reach: {reason}")]
    NotSent {
        /// The node.
        to: NodeId,
        /// Why.
        reason: String,
    },
    /// The request may have arrived.
    #[error("node {to} did not answer: {reason}")]
    NoAnswer {
        /// The node.
        to: NodeId,
        /// Why.
        reason: String,
    },
}

type Answer<'a> = Pin<Box<dyn Future<Output = Result<Bytes, CallError>> + Send + 'a>>;

/// Any [`Transport`], so that a controller need not be generic over it.
pub(crate) trait AnyTransport: Send + Sync + 'static {
    fn call(&self, to: NodeId, request: Bytes) -> Answer<'_>;
}

impl<T: Transport> AnyTransport for T {
    fn call(&self, to: NodeId, request: Bytes) -> Answer<'_> {
        Box::pin(Transport::call(self, to, request))
    }
}
