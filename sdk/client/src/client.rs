//! The client: one connection for requests and produce streams, and what is known of topics.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use weir_core::wire::message::{HelloReply, Request, Response, TopicInfo};
use weir_core::wire::{FrameKind, Outcome};
use weir_producer::Backoff;
use weir_transport::{ClientProfile, CloseReason, FrameError, control};

use crate::admin::Admin;
use crate::config::ClientConfig;
use crate::consumer::ConsumerBuilder;
use crate::error::{ConnectError, RequestError};
use crate::link::{Link, Live, Network, ReceiveError, receive};
use crate::producer::ProducerBuilder;

/// How long a topic's description is trusted before it is asked for again.
pub(crate) const METADATA_AGE_MAX: Duration = Duration::from_secs(30);

/// A client of one node. Cheap to clone; clones share one connection.
///
/// The connection is made by [`Client::connect`] and made again when it is lost, with growing,
/// jittered delays. Producers use it too; every consumer has one of its own, so that records
/// nobody reads never hold up an acknowledgement or a commit.
///
/// Must be used on the tokio runtime it was made on.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    network: Arc<Network>,
    control: Link,
    hello: Mutex<Arc<HelloReply>>,
    topics: Mutex<HashMap<String, (Instant, Arc<TopicInfo>)>>,
}

impl Client {
    /// Connects to the first of the node's addresses that answers.
    ///
    /// # Errors
    /// [`ConnectError`]: at once where certificates or rights are wrong, after
    /// [`ClientConfig::connect_timeout`] where nobody answers.
    ///
    /// # Cancel safety
    /// Safe: dropping the future breaks the attempt off.
    pub async fn connect(config: ClientConfig) -> Result<Client, ConnectError> {
        let network = Arc::new(Network::new(config)?);
        let control = Link::new(network.clone(), ClientProfile::Control);
        let live = control.get().await?;
        let hello = Mutex::new(live.hello);
        let inner = Inner { network, control, hello, topics: Mutex::default() };
        Ok(Client { inner: Arc::new(inner) })
    }

    /// What the node said of itself when it was last connected to.
    #[must_use]
    pub fn server_info(&self) -> HelloReply {
        HelloReply::clone(&lock(&self.inner.hello))
    }

    /// Topics, groups and the node itself.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// Begins a producer.
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder::new(self.clone())
    }

    /// Begins a consumer.
    pub fn consumer(&self) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone())
    }

    /// Moves all connections to new sockets, as a change of network would. Streams go on from the
    /// new address; nothing is lost. For programs that learn of such a change before QUIC does,
    /// and for tests.
    ///
    /// # Errors
    /// If a new socket cannot be opened; the old one is kept then.
    pub fn rebind(&self) -> std::io::Result<()> {
        self.inner.network.endpoint.rebind()
    }

    /// Closes all connections of this client and its clones, producers and consumers, and waits
    /// until the node was told. Close producers first, or what they hold is not sent.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the connections closed, perhaps without telling the node.
    pub async fn close(self) {
        // The endpoint first: it also breaks off an attempt to connect that holds the link.
        self.inner.network.endpoint.close(CloseReason::Normal, "");
        self.inner.control.close().await;
        self.inner.network.endpoint.wait_idle().await;
    }

    /// Sends a control request and waits for its answer. For requests that [`Client::admin`] has
    /// no method for.
    ///
    /// Requests that may be repeated without harm are sent again when the connection is lost or
    /// the node says "not now", others only where they certainly had no effect; in all for no
    /// longer than [`ClientConfig::request_timeout`].
    ///
    /// # Errors
    /// [`RequestError`]; [`Response::Error`] comes back as [`RequestError::Refused`].
    ///
    /// # Cancel safety
    /// Dropping the future abandons the answer; the request may be carried out all the same.
    pub async fn request(&self, request: &Request) -> Result<Response, RequestError> {
        self.request_with(request, Duration::ZERO).await
    }

    /// As [`Client::request`], for work that may take the node `more` than a request does.
    pub(crate) async fn request_with(
        &self,
        request: &Request,
        more: Duration,
    ) -> Result<Response, RequestError> {
        let after = self.inner.network.config.request_timeout + more;
        let deadline = Instant::now() + after;
        let mut sent = false;
        let mut last = None;
        let tries = self.request_until_answered(request, &mut sent, &mut last);
        match timeout_at(deadline, tries).await {
            Ok(result) => result,
            Err(_) => {
                let outcome = if sent { Outcome::Unknown } else { Outcome::No };
                Err(RequestError::TimedOut { after, outcome, last })
            }
        }
    }

    /// Repeats a request while that may help. `sent` tells whether a try is or was under way
    /// whose effect is unknown; `last` is the last failure.
    async fn request_until_answered(
        &self,
        request: &Request,
        sent: &mut bool,
        last: &mut Option<String>,
    ) -> Result<Response, RequestError> {
        for failures in 1.. {
            let failed = |error: &ConnectError| *last = Some(error.to_string());
            let live = self.live(failed).await?;
            let sent_before = std::mem::replace(sent, true);
            let error = match ask(&live, request).await {
                Ok(Response::Error(error)) => {
                    *sent = sent_before || error.outcome == Outcome::Unknown;
                    ReceiveError::Refused(error)
                }
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let harmless = !*sent || repeatable(request);
            if !(error.retryable() && harmless) {
                return Err(match error {
                    ReceiveError::Refused(error) => RequestError::Refused(error),
                    ReceiveError::Stream(_) | ReceiveError::NoAnswer => {
                        RequestError::Lost(error.to_string())
                    }
                    other => RequestError::Protocol(other.to_string()),
                });
            }
            *last = Some(error.to_string());
            sleep(Backoff::RETRY.jittered(failures)).await;
        }
        unreachable!("the loop has no end")
    }

    /// The control connection; waits for it as long as that may help.
    pub(crate) async fn live(
        &self,
        on_failure: impl FnMut(&ConnectError),
    ) -> Result<Live, ConnectError> {
        let live = self.inner.control.get_patiently(on_failure).await?;
        let mut known = lock(&self.inner.hello);
        if !Arc::ptr_eq(&known, &live.hello) {
            *known = live.hello.clone();
        }
        drop(known);
        Ok(live)
    }

    /// Closes the control connection as it is, since it does not work any more.
    pub(crate) fn drop_connection(&self, live: &Live, why: &str) {
        self.inner.control.drop_connection(live, why);
    }

    /// A connection of its own, for subscriptions.
    pub(crate) fn subscription_link(&self, profile: ClientProfile) -> Link {
        Link::new(self.inner.network.clone(), profile)
    }

    /// The topic of this name, not older than `METADATA_AGE_MAX`; `None` if there is none.
    pub(crate) async fn topic(&self, name: &str) -> Result<Option<Arc<TopicInfo>>, RequestError> {
        if let Some((at, topic)) = lock(&self.inner.topics).get(name)
            && at.elapsed() < METADATA_AGE_MAX
        {
            return Ok(Some(topic.clone()));
        }
        self.fresh_topic(name).await
    }

    /// The topic of this name as the node knows it now; `None` if there is none.
    pub(crate) async fn fresh_topic(
        &self,
        name: &str,
    ) -> Result<Option<Arc<TopicInfo>>, RequestError> {
        let names = Some(vec![name.to_owned()]);
        let found = match self.request(&Request::Topics { names }).await {
            Ok(Response::Topics { topics }) => topics.into_iter().find(|t| t.name == name),
            Ok(_) => return Err(unexpected()),
            Err(error) if error.code() == Some(weir_core::wire::ErrorCode::UnknownTopic) => None,
            Err(error) => return Err(error),
        };
        let mut topics = lock(&self.inner.topics);
        let Some(topic) = found.map(Arc::new) else {
            topics.remove(name);
            return Ok(None);
        };
        topics.insert(name.to_owned(), (Instant::now(), topic.clone()));
        Ok(Some(topic))
    }

    /// Forgets what is known of a topic: the node said something else.
    pub(crate) fn forget_topic(&self, name: &str) {
        lock(&self.inner.topics).remove(name);
    }
}

/// A poisoned lock only says that some thread panicked elsewhere: these values are whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For an answer of another kind than the question.
pub(crate) fn unexpected() -> RequestError {
    RequestError::Protocol("it answers another question than was asked".to_owned())
}

async fn ask(live: &Live, request: &Request) -> Result<Response, ReceiveError> {
    let body = control::encode(request)?;
    let (mut writer, mut reader) = live.connection.open_stream().await.map_err(FrameError::Lost)?;
    let sent = writer.write(FrameKind::Request as u8, 0, &[body]).await;
    let sent = sent.and(writer.finish().await);
    // A node that refuses may stop the stream before it was read: its reason comes back.
    match receive(&mut reader, FrameKind::Response).await {
        Err(ReceiveError::NoAnswer) => Err(sent.err().map_or(ReceiveError::NoAnswer, Into::into)),
        other => other,
    }
}

/// Whether doing it twice is the same as doing it once.
fn repeatable(request: &Request) -> bool {
    match request {
        Request::CreateTopic { .. }
        | Request::DeleteTopic { .. }
        | Request::Upload { .. }
        | Request::DeleteModule { .. }
        | Request::CreateDeployment { .. }
        | Request::ReplaceDeployment { .. }
        | Request::DeleteDeployment { .. } => false,
        Request::Topics { .. }
        | Request::AlterTopic { .. }
        | Request::TrimPartition { .. }
        | Request::InitProducer {}
        | Request::Offsets { .. }
        | Request::CommitPositions { .. }
        | Request::FetchPositions { .. }
        | Request::ListGroups {}
        | Request::DeleteGroup { .. }
        | Request::Modules {}
        | Request::BeginUpload { .. }
        | Request::PushModule { .. }
        | Request::Deployments { .. }
        | Request::DeploymentLog { .. }
        | Request::LaneSnapshot { .. }
        | Request::LaneOutputs { .. }
        | Request::PauseDeployment { .. }
        | Request::Status {}
        | Request::Cluster {}
        | Request::ChangeCluster { .. }
        | Request::Join(_)
        | Request::ConfirmTime {}
        | Request::JoinGroup { .. }
        | Request::GroupHeartbeat { .. }
        | Request::LeaveGroup { .. }
        | Request::GroupMembers { .. }
        // Nodes ask each other these.
        | Request::Informed { .. }
        | Request::HoldModule { .. }
        | Request::ModulePart { .. }
        | Request::CheckDeployment { .. } => true,
    }
}
