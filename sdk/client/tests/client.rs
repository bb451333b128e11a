//! Connecting, requests and their repetition.

mod support;

use std::time::Duration;

use support::{Node, soon};
use weir_client::{
    Client, ClientConfig, ConnectError, ErrorCode, Outcome, RequestError, TlsConfig, TopicConfig,
};

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

/// Goal: what may be repeated is repeated when the answer is lost or the node says "not now"; what
/// may not be is an error that says "unknown".
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
    node.script(|script| script.lose_answers = 1);
    let lost = soon(admin.create_topic("u", TopicConfig::default())).await.unwrap_err();
    assert!(matches!(lost, RequestError::Lost(_)), "{lost}");
    assert_eq!(lost.outcome(), Outcome::Unknown);
    assert!(soon(admin.topic("u")).await.unwrap().is_some(), "it did happen");
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
