//! Topics, consumer groups and the node itself.

use std::sync::Arc;

use weir_core::group::Generation;
use weir_core::ids::{NodeId, PartitionIndex};
use weir_core::wire::cluster::{ClusterChangeAsk, ClusterChanged, ClusterStatus, Rebalance};
use weir_core::wire::message::{
    GroupInfo, GroupMembers, GroupPosition, NodeStatus, Request, ResolvedOffset, Response, StartAt,
    TopicInfo,
};
use weir_core::wire::{ErrorCode, WireError};
use weir_core::{Offset, TopicId};

use crate::client::{Client, unexpected};
use crate::error::RequestError;
use crate::{TopicChange, TopicConfig};

/// How often a request whose answer was lost is repeated to find out what became of it.
const REPEATS_MAX: usize = 3;

/// Administration of a node. From [`Client::admin`]; cheap to clone.
///
/// A method is one request, with the exceptions named there ([`Client::request`] says what is
/// repeated when): dropping its future abandons the answer, while the request may be carried out
/// all the same.
#[derive(Clone, Debug)]
pub struct Admin {
    pub(crate) client: Client,
}

impl Admin {
    pub(crate) fn new(client: Client) -> Admin {
        Admin { client }
    }

    /// All topics that this client may see, by name.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn topics(&self) -> Result<Vec<TopicInfo>, RequestError> {
        self.ask_topics(&Request::Topics { names: None }).await
    }

    /// The topic of this name; `None` if there is none.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn topic(&self, name: &str) -> Result<Option<TopicInfo>, RequestError> {
        Ok(self.client.fresh_topic(name).await?.map(Arc::unwrap_or_clone))
    }

    /// Creates a topic.
    ///
    /// If the connection is lost before the answer came, it is asked again: a topic of this name
    /// that is there by then counts as created by this call if it has the very settings asked for.
    ///
    /// # Errors
    /// [`RequestError`]; `topic-exists` if there is one of this name, whatever its settings. Its
    /// outcome is `Unknown` if an answer was lost and the topic that is there has other settings.
    pub async fn create_topic(
        &self,
        name: &str,
        config: TopicConfig,
    ) -> Result<TopicInfo, RequestError> {
        let request = Request::CreateTopic { name: name.to_owned(), config: config.clone() };
        let mut lost: Option<RequestError> = None;
        for _ in 0..=REPEATS_MAX {
            let error = match self.ask_topics(&request).await {
                Ok(mut topics) => return topics.pop().ok_or_else(unexpected),
                Err(error) => error,
            };
            lost = match (lost, error) {
                (_, error @ RequestError::Lost(_)) => Some(error),
                (None, error) => return Err(error),
                (Some(lost), error) if error.code() == Some(ErrorCode::TopicExists) => {
                    return self.created_before(name, &config, lost).await;
                }
                (Some(lost), error) => return Err(unresolved(lost, error)),
            };
        }
        Err(lost.unwrap_or_else(unexpected))
    }

    /// The topic that a request made whose answer was lost.
    async fn created_before(
        &self,
        name: &str,
        config: &TopicConfig,
        lost: RequestError,
    ) -> Result<TopicInfo, RequestError> {
        match self.topic(name).await {
            Ok(Some(topic)) if topic.config == *config => Ok(topic),
            Ok(_) => {
                let message = format!(
                    "{lost}; asked again, the node has a topic `{name}` with other settings than \
                     these"
                );
                Err(RequestError::Refused(WireError::unknown(ErrorCode::TopicExists, message)))
            }
            Err(error) => Err(unresolved(lost, error)),
        }
    }

    /// Creates a topic unless there is one of this name, whose settings then stay as they are.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn ensure_topic(
        &self,
        name: &str,
        config: TopicConfig,
    ) -> Result<TopicInfo, RequestError> {
        if let Some(topic) = self.topic(name).await? {
            return Ok(topic);
        }
        match self.create_topic(name, config).await {
            Err(error) if error.code() == Some(ErrorCode::TopicExists) => {
                self.topic(name).await?.ok_or(error)
            }
            other => other,
        }
    }

    /// Changes a topic's settings; what `change` does not name stays.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn alter_topic(
        &self,
        name: &str,
        change: TopicChange,
    ) -> Result<TopicInfo, RequestError> {
        let request = Request::AlterTopic { name: name.to_owned(), change };
        let topic = self.ask_topics(&request).await?.pop().ok_or_else(unexpected)?;
        self.client.forget_topic(name);
        Ok(topic)
    }

    /// Deletes a topic and all its records, for good.
    ///
    /// Looks first which topic has the name. If the connection is lost before the answer came, it
    /// is asked again as long as that very topic is there; another one that somebody made under
    /// the same name since is left alone.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn delete_topic(&self, name: &str) -> Result<(), RequestError> {
        let meant = self.client.fresh_topic(name).await?.map(|topic| topic.id);
        self.client.forget_topic(name);
        let request = Request::DeleteTopic { name: name.to_owned() };
        let mut lost: Option<RequestError> = None;
        for _ in 0..=REPEATS_MAX {
            let error = match self.ask_done(&request).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let error = match (lost, error) {
                (_, error @ RequestError::Lost(_)) => error,
                (None, error) => return Err(error),
                (Some(_), error) if error.code() == Some(ErrorCode::UnknownTopic) => return Ok(()),
                (Some(lost), error) => return Err(unresolved(lost, error)),
            };
            match self.client.fresh_topic(name).await {
                Ok(Some(topic)) if Some(topic.id) == meant => lost = Some(error),
                Ok(_) => return Ok(()),
                Err(reason) => return Err(unresolved(error, reason)),
            }
        }
        Err(lost.unwrap_or_else(unexpected))
    }

    /// Drops all records of a partition below `before`, for good.
    ///
    /// # Errors
    /// [`RequestError`]; `out-of-range` if `before` lies above the high watermark.
    pub async fn trim(
        &self,
        topic: &str,
        partition: u32,
        before: Offset,
    ) -> Result<(), RequestError> {
        let (topic, partition) = (topic.to_owned(), PartitionIndex(partition));
        self.ask_done(&Request::TrimPartition { topic, partition, before }).await
    }

    /// The bounds of partitions, and the offsets that these positions name, in the order asked.
    ///
    /// # Errors
    /// [`RequestError`]; `unknown-topic` also where there is none of this name.
    pub async fn offsets(
        &self,
        topic: &str,
        positions: &[(u32, StartAt)],
    ) -> Result<Vec<ResolvedOffset>, RequestError> {
        let topic = self.topic_id(topic).await?;
        let positions = positions.iter().map(|&(p, at)| (PartitionIndex(p), at)).collect();
        match self.client.request(&Request::Offsets { topic, positions }).await? {
            Response::Offsets { offsets } => Ok(offsets),
            _ => Err(unexpected()),
        }
    }

    /// All consumer groups that have stored positions.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn groups(&self) -> Result<Vec<GroupInfo>, RequestError> {
        match self.client.request(&Request::ListGroups {}).await? {
            Response::Groups { groups } => Ok(groups),
            _ => Err(unexpected()),
        }
    }

    /// The stored positions of a consumer group; empty for an unknown one.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn group(&self, name: &str) -> Result<Vec<GroupPosition>, RequestError> {
        let request = Request::FetchPositions { group: name.to_owned() };
        match self.client.request(&request).await {
            Ok(Response::Positions { positions }) => Ok(positions),
            Ok(_) => Err(unexpected()),
            Err(error) if error.code() == Some(ErrorCode::UnknownGroup) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The members of a consumer group, and what each works on; none for an unknown one.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn group_members(&self, name: &str) -> Result<GroupMembers, RequestError> {
        match self.client.request(&Request::GroupMembers { group: name.to_owned() }).await? {
            Response::Members(members) => Ok(*members),
            _ => Err(unexpected()),
        }
    }

    /// Stores positions for a consumer group; partitions that are not named keep theirs. Refused
    /// while the group has members; a consumer that was assigned partitions and runs meanwhile will
    /// store its own positions over them.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn reset_group(
        &self,
        name: &str,
        positions: Vec<GroupPosition>,
    ) -> Result<(), RequestError> {
        let (group, member) = (name.to_owned(), None);
        self.ask_done(&Request::CommitPositions { group, positions, member }).await
    }

    /// Stores positions of a consumer group in one topic, given by offset, time or end, and
    /// returns what they were resolved to.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn reset_group_to(
        &self,
        name: &str,
        topic: &str,
        positions: &[(u32, StartAt)],
    ) -> Result<Vec<GroupPosition>, RequestError> {
        let id = self.topic_id(topic).await?;
        let resolved = self.offsets(topic, positions).await?;
        let positions: Vec<GroupPosition> = resolved
            .into_iter()
            .map(|at| GroupPosition {
                topic: id,
                partition: at.partition,
                offset: at.offset,
                committed_at: weir_core::TimestampMs::default(),
                since: Generation::default(),
            })
            .collect();
        self.reset_group(name, positions.clone()).await?;
        Ok(positions)
    }

    /// Forgets a consumer group: all its positions.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn delete_group(&self, name: &str) -> Result<(), RequestError> {
        self.ask_done(&Request::DeleteGroup { group: name.to_owned(), topics: None }).await
    }

    /// Forgets a consumer group's positions in these topics.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn delete_group_topics(
        &self,
        name: &str,
        topics: Vec<TopicId>,
    ) -> Result<(), RequestError> {
        let request = Request::DeleteGroup { group: name.to_owned(), topics: Some(topics) };
        self.ask_done(&request).await
    }

    /// The node and its partitions.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn status(&self) -> Result<NodeStatus, RequestError> {
        match self.client.request(&Request::Status {}).await? {
            Response::Status(status) => Ok(*status),
            _ => Err(unexpected()),
        }
    }

    /// The cluster that the node is part of: its nodes, and the replicas of all partitions.
    ///
    /// # Errors
    /// [`RequestError`]; `unsupported` if the node is alone.
    pub async fn cluster(&self) -> Result<ClusterStatus, RequestError> {
        match self.client.request(&Request::Cluster {}).await? {
            Response::Cluster(status) => Ok(*status),
            _ => Err(unexpected()),
        }
    }

    /// Moves a partition's copies to these nodes, the preferred leader first. The copies are made
    /// while the old ones serve; [`Admin::cluster`] tells when they have taken over.
    ///
    /// # Errors
    /// [`RequestError`]; `unsupported` if the node is alone.
    pub async fn reassign(
        &self,
        topic: &str,
        partition: u32,
        nodes: &[NodeId],
    ) -> Result<(), RequestError> {
        let (topic, nodes) = (topic.to_owned(), nodes.to_vec());
        let ask = ClusterChangeAsk::Reassign { topic, partition: PartitionIndex(partition), nodes };
        self.ask_done(&Request::ChangeCluster { ask }).await
    }

    /// Has a node of the cluster hold and lead nothing, as far as others can take it, or lets it be
    /// used again. It goes on by itself; [`Admin::cluster`] tells how far it is.
    ///
    /// # Errors
    /// [`RequestError`]; `unsupported` if the node that is asked is alone.
    pub async fn drain(&self, node: NodeId, drained: bool) -> Result<(), RequestError> {
        let ask = ClusterChangeAsk::Drain { node, drained };
        self.ask_done(&Request::ChangeCluster { ask }).await
    }

    /// Adds a member to the cluster, or changes the address of the one of this name. It takes part
    /// once a node of that name, with a certificate of the cluster's authority, is started there.
    ///
    /// # Errors
    /// [`RequestError`]; `unsupported` if the node that is asked is alone.
    pub async fn add_member(
        &self,
        name: &str,
        address: &str,
        witness: Option<bool>,
    ) -> Result<(), RequestError> {
        let (name, address) = (name.to_owned(), address.to_owned());
        let ask = ClusterChangeAsk::Add { name, address, witness };
        self.ask_done(&Request::ChangeCluster { ask }).await
    }

    /// Makes a token that lets one new node into the cluster, for `weir node --join`.
    ///
    /// # Errors
    /// [`RequestError`]; `unsupported` if the node that is asked is alone.
    pub async fn join_token(
        &self,
        valid: std::time::Duration,
        witness: bool,
    ) -> Result<String, RequestError> {
        let valid_ms = u64::try_from(valid.as_millis()).unwrap_or(u64::MAX);
        let ask = ClusterChangeAsk::Token { valid_ms, witness };
        match self.client.request(&Request::ChangeCluster { ask }).await? {
            Response::ClusterChanged(changed) => match *changed {
                ClusterChanged::Token(token) => Ok(token),
                ClusterChanged::Rebalance(_) => Err(unexpected()),
            },
            _ => Err(unexpected()),
        }
    }

    /// Removes a member for good; its number is never given again. With `force` also if it is in
    /// use or has copies, as long as others have everything that was acknowledged.
    ///
    /// # Errors
    /// [`RequestError`]; `invalid-argument` if it may not be removed, with the reason.
    pub async fn remove_member(&self, node: NodeId, force: bool) -> Result<(), RequestError> {
        let ask = ClusterChangeAsk::Remove { node, force };
        self.ask_done(&Request::ChangeCluster { ask }).await
    }

    /// What has to be moved until copies and preferred leads are even over the nodes that are not
    /// drained. With `apply` it begins with a few of the moves: ask again until none is left.
    ///
    /// # Errors
    /// [`RequestError`]; `unsupported` if the node is alone.
    pub async fn rebalance(&self, apply: bool) -> Result<Rebalance, RequestError> {
        let ask = ClusterChangeAsk::Rebalance { apply };
        match self.client.request(&Request::ChangeCluster { ask }).await? {
            Response::ClusterChanged(changed) => match *changed {
                ClusterChanged::Rebalance(rebalance) => Ok(rebalance),
                ClusterChanged::Token(_) => Err(unexpected()),
            },
            _ => Err(unexpected()),
        }
    }

    /// Confirms that the node's wall clock is right, so that retention by age goes on.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn confirm_time(&self) -> Result<(), RequestError> {
        self.ask_done(&Request::ConfirmTime {}).await
    }

    async fn topic_id(&self, name: &str) -> Result<TopicId, RequestError> {
        let topic = self.client.topic(name).await?;
        topic.map(|topic| topic.id).ok_or_else(|| {
            let message = format!("there is no topic `{name}`");
            RequestError::Refused(WireError::new(ErrorCode::UnknownTopic, message))
        })
    }

    async fn ask_topics(&self, request: &Request) -> Result<Vec<TopicInfo>, RequestError> {
        match self.client.request(request).await? {
            Response::Topics { topics } => Ok(topics),
            _ => Err(unexpected()),
        }
    }

    pub(crate) async fn ask_done(&self, request: &Request) -> Result<(), RequestError> {
        match self.client.request(request).await? {
            Response::Done {} => Ok(()),
            _ => Err(unexpected()),
        }
    }
}

/// What became of a request whose answer was lost could not be found out.
fn unresolved(lost: RequestError, reason: RequestError) -> RequestError {
    RequestError::Unresolved { lost: Box::new(lost), reason: Box::new(reason) }
}
