//! Connecting, requests and their repetition.

mod support;

use std::time::Duration;

use support::{Node, soon};
use weir_client::{
    Client, ClientConfig, ConnectError, ErrorCode, Outcome, RequestError, TlsConfig, TopicConfig,
};
use weir_core::wire::message::Request;

/// Goal: the node says who it is; requests work; the client goes on from another socket.
#[tokio::test]
async fn hello_and_requests() {
    let node = Node::start().await;
    let client = node.client().await;
    assert_eq!(client.server_info().node, "fake");
    let admin = client.admin();
    let topic = soon(admin.create_topic("t", TopicConfig::default())).await.unwrap();
    assert_eq!(topic.name, "t");
    let again = soon(admin.create_topic("t", TopicConfig::default())).await.unwrap_err();
    assert_eq!((again.code(), again.outcome()), (Some(ErrorCode::TopicExists), Outcome::No));
    assert_eq!(soon(admin.ensure_topic("t", TopicConfig::default())).await.unwrap(), topic);
    assert!(soon(admin.topic("u")).await.unwrap().is_none());
    client.rebind().unwrap();
    assert_eq!(soon(admin.topics()).await.unwrap(), [topic]);
    assert_eq!(node.state().connected, 1, "the connection moved, it was not made again");
    soon(client.close()).await;
}

/// Goal: what may be repeated is repeated when the answer is lost or the node says "not now".
#[tokio::test]
async fn lost_answers() {
    let node = Node::start().await;
    let client = node.client().await;
    let admin = client.admin();
    node.script(|script| script.lose_answers = 2);
    soon(admin.status()).await.unwrap();
    assert_eq!(node.state().requests, 3);
    node.script(|script| script.refuse_requests.extend([ErrorCode::Busy, ErrorCode::Busy]));
    soon(admin.create_topic("t", TopicConfig::default())).await.unwrap();
    // Through `request`, nothing is known of what may be asked instead.
    node.script(|script| script.lose_answers = 1);
    let name = "u".to_owned();
    let create = Request::CreateTopic { name, config: TopicConfig::default() };
    let lost = soon(client.request(&create)).await.unwrap_err();
    assert!(matches!(lost, RequestError::Lost(_)), "{lost}");
    assert_eq!(lost.outcome(), Outcome::Unknown);
    assert!(soon(admin.topic("u")).await.unwrap().is_some(), "it did happen");
}

/// Goal: a topic is created once and deleted once where the connection breaks between request and
/// answer, however often; the caller learns how it is.
#[tokio::test]
async fn lost_answers_about_topics() {
    let node = Node::start().await;
    let admin = node.client().await.admin();
    for lost in 1..=3 {
        node.script(|script| script.lose_answers = lost);
        let config = TopicConfig { partitions: 2, ..TopicConfig::default() };
        let topic = soon(admin.create_topic("t", config.clone())).await.unwrap();
        assert_eq!(topic.config, config);
        assert_eq!(node.state().topics, [topic]);
        node.script(|script| script.lose_answers = 0);
        let again = soon(admin.create_topic("t", config)).await.unwrap_err();
        assert_eq!((again.code(), again.outcome()), (Some(ErrorCode::TopicExists), Outcome::No));

        let lose_deletion = |lost| node.script(|script| script.lose_deletions = lost);
        lose_deletion(lost);
        soon(admin.delete_topic("t")).await.unwrap();
        assert_eq!(node.state().topics, []);
        lose_deletion(0);
        let again = soon(admin.delete_topic("t")).await.unwrap_err();
        assert_eq!((again.code(), again.outcome()), (Some(ErrorCode::UnknownTopic), Outcome::No));
    }
}

/// Goal: where it cannot be known what became of a request, the error says so and why.
#[tokio::test]
async fn lost_answers_that_stay_unknown() {
    let node = Node::start().await;
    let admin = node.client().await.admin();
    node.add_topic("t", 5);
    node.script(|script| script.lose_answers = 1);
    let other = soon(admin.create_topic("t", TopicConfig::default())).await.unwrap_err();
    assert_eq!((other.code(), other.outcome()), (Some(ErrorCode::TopicExists), Outcome::Unknown));
    assert!(other.to_string().contains("other settings"), "{other}");
    assert!(other.to_string().contains("the connection was lost"), "{other}");

    // The answer is lost, and then the node lets nobody in.
    let mut config = node.config();
    config.request_timeout = Duration::from_secs(2);
    let admin = soon(Client::connect(config)).await.unwrap().admin();
    node.script(|script| script.refuse_hello = Some(ErrorCode::Busy));
    node.script(|script| script.lose_answers = 1);
    let gone = soon(admin.create_topic("u", TopicConfig::default())).await.unwrap_err();
    assert!(matches!(gone, RequestError::Unresolved { .. }), "{gone}");
    assert_eq!(gone.outcome(), Outcome::Unknown);
    assert!(gone.to_string().contains("could not be found out"), "{gone}");
}

/// Goal: a deletion whose answer was lost is not carried out on a topic that somebody else made
/// under the same name since.
#[tokio::test]
async fn a_lost_deletion_spares_a_namesake() {
    let node = Node::start().await;
    let admin = node.client().await.admin();
    node.add_topic("t", 1);
    node.script(|script| {
        script.lose_deletions = 1;
        script.remake_deleted = true;
    });
    soon(admin.delete_topic("t")).await.unwrap();
    let topics = node.state().topics.clone();
    assert_eq!(topics.len(), 1);
    assert_eq!(soon(admin.topic("t")).await.unwrap(), topics.first().cloned());
}

/// Goal: requests wait for a node that is away, but no longer than the request timeout.
#[tokio::test]
async fn a_node_that_is_away() {
    let mut node = Node::start().await;
    let mut config = node.config();
    config.request_timeout = Duration::from_millis(300);
    config.connect_timeout = Duration::from_millis(100);
    let impatient = soon(Client::connect(config)).await.unwrap();
    let patient = node.client().await;
    node.pause().await;
    let error = soon(impatient.admin().status()).await.unwrap_err();
    assert!(matches!(error, RequestError::TimedOut { last: Some(_), .. }), "{error}");
    let admin = patient.admin();
    let (answer, ()) = tokio::join!(soon(admin.status()), node.resume());
    answer.unwrap();
    soon(patient.close()).await;
    let closed = soon(impatient.admin().status()).await;
    closed.unwrap();
}

/// Goal: of several addresses any that answers will do, and one that is silent delays little.
#[tokio::test]
async fn several_addresses() {
    let node = Node::start().await;
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut config = node.config();
    config.server = format!("{}, {}", silent.local_addr().unwrap(), node.address);
    let client = soon(Client::connect(config)).await.unwrap();
    soon(client.admin().status()).await.unwrap();
}

/// Goal: what a person must change fails at once, in words for that person; what may pass says
/// that it may.
#[tokio::test]
async fn connecting_fails_readably() {
    let node = Node::start().await;
    let stranger = Node::start().await;
    let mut config = node.config();
    config.tls = stranger.config().tls;
    let error = soon(Client::connect(config)).await.unwrap_err();
    assert!(!error.retryable());
    assert!(error.to_string().contains("certificate"), "{error}");

    let mut config = node.config();
    config.server_name = "somebody".into();
    let error = soon(Client::connect(config)).await.unwrap_err();
    assert!(error.to_string().contains("somebody"), "{error}");

    let config = ClientConfig::new("", TlsConfig::from_ca_pem("no pem"));
    assert!(matches!(soon(Client::connect(config)).await, Err(ConnectError::Config(_))));
    let config = ClientConfig::new("x", TlsConfig::from_ca_pem("no pem"));
    assert!(matches!(soon(Client::connect(config)).await, Err(ConnectError::Identity(_))));

    node.script(|script| script.refuse_hello = Some(ErrorCode::Unauthorized));
    let error = soon(Client::connect(node.config())).await.unwrap_err();
    let ConnectError::Refused { error, .. } = error else { panic!("{error}") };
    assert_eq!(error.code, ErrorCode::Unauthorized);

    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut config = node.config();
    config.server = silent.local_addr().unwrap().to_string();
    config.connect_timeout = Duration::from_millis(50);
    let error = soon(Client::connect(config)).await.unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");
    assert!(error.retryable());
}

/// Goal: a client does not go on with a node of another cluster, whose offsets mean other things.
#[tokio::test]
async fn another_cluster_is_refused() {
    let node = Node::start().await;
    let client = node.client().await;
    node.script(|script| script.cluster = Some("c2".into()));
    node.break_connections();
    let error = soon(client.admin().status()).await.unwrap_err();
    assert!(matches!(error, RequestError::Connect(ConnectError::OtherCluster { .. })), "{error}");
}
