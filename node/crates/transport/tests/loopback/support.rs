//! A site with one node, and clients of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use weir_transport::{
    Authority, ClientAuth, ClientEndpoint, ClientProfile, ClientTls, Clock, ConnectError,
    Connection, ConnectionLost, FrameError, HandshakeError, Identity, ListenConfig, NODE_VALID,
    NodeNames, ServerEndpoint,
};

pub const DAY: Duration = Duration::from_secs(86_400);

/// A certificate authority and what it issued.
pub struct Site {
    pub authority: Authority,
}

impl Site {
    pub fn new() -> Self {
        Self { authority: Authority::in_memory(&Clock::system()).unwrap() }
    }

    pub fn node_identity(&self) -> Identity {
        let names = NodeNames::new("edge-1").unwrap();
        self.authority.issue_node(&names, NODE_VALID).unwrap().identity().unwrap()
    }

    pub fn client_identity(&self, principal: &str) -> Identity {
        self.authority.issue_client(principal, DAY).unwrap().identity().unwrap()
    }

    /// How a node of this site listens on loopback.
    pub fn listen(&self, client_auth: ClientAuth) -> ListenConfig {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let trust = self.authority.trust().clone();
        let mut config = ListenConfig::new(address, self.node_identity(), trust);
        config.client_auth = client_auth;
        config
    }

    pub fn anonymous(&self) -> ClientTls {
        ClientTls::new(self.authority.trust().clone())
    }

    pub fn known(&self, principal: &str) -> ClientTls {
        self.anonymous().with_identity(self.client_identity(principal))
    }
}

/// A node that takes connections and hands them to the test.
pub struct Node {
    pub endpoint: Arc<ServerEndpoint>,
    pub address: SocketAddr,
    accepted: mpsc::UnboundedReceiver<Result<Connection, HandshakeError>>,
}

impl Node {
    pub fn start(config: ListenConfig) -> Self {
        let endpoint = Arc::new(ServerEndpoint::bind(config).unwrap());
        let address = endpoint.local_address().unwrap();
        let (sender, accepted) = mpsc::unbounded_channel();
        let listening = endpoint.clone();
        tokio::spawn(async move {
            while let Some(incoming) = listening.accept().await {
                let sender = sender.clone();
                tokio::spawn(async move {
                    // The test may have ended.
                    let _ = sender.send(incoming.handshake().await);
                });
            }
        });
        Self { endpoint, address, accepted }
    }

    /// What became of the next handshake.
    pub async fn next(&mut self) -> Result<Connection, HandshakeError> {
        self.accepted.recv().await.unwrap()
    }

    pub async fn connection(&mut self) -> Connection {
        self.next().await.unwrap()
    }

    pub async fn refusal(&mut self) -> HandshakeError {
        self.next().await.unwrap_err()
    }
}

pub fn client(tls: ClientTls) -> ClientEndpoint {
    ClientEndpoint::new(tls).unwrap()
}

pub async fn connect(endpoint: &ClientEndpoint, address: SocketAddr) -> Connection {
    endpoint.connect(address, None, ClientProfile::Control).await.unwrap()
}

/// A node and one client of it, connected.
pub async fn pair() -> (Node, ClientEndpoint, Connection, Connection) {
    let site = Site::new();
    let mut node = Node::start(site.listen(ClientAuth::Optional));
    let endpoint = client(site.anonymous());
    let (of_client, of_node) = tokio::join!(connect(&endpoint, node.address), node.connection());
    (node, endpoint, of_client, of_node)
}

/// Why a client does not get in, whichever step tells it.
pub async fn why_refused(
    tls: ClientTls,
    address: SocketAddr,
) -> Result<ConnectionLost, ConnectError> {
    let endpoint = client(tls);
    let connection = match endpoint.connect(address, None, ClientProfile::Control).await {
        Ok(connection) => connection,
        Err(ConnectError::Lost { lost, .. }) => return Ok(lost),
        Err(error) => return Err(error),
    };
    match connection.open_stream().await {
        Err(lost) => Ok(lost),
        Ok((mut writer, mut reader)) => {
            // The hello may or may not get out before the refusal comes in.
            let _ = writer.write(1, 0, &[]).await;
            match reader.next(100).await {
                Err(FrameError::Lost(lost)) => Ok(lost),
                other => panic!("expected the connection to be lost, got {other:?}"),
            }
        }
    }
}

/// A clock that is off by the stated time.
pub fn clock_ahead(by: Duration) -> Clock {
    Clock::from_fn(move || SystemTime::now() + by)
}

/// Sends one frame and reads it back from a peer that echoes.
pub async fn echo(of_client: &Connection, of_node: &Connection) {
    let client = async {
        let (mut writer, mut reader) = of_client.open_stream().await.unwrap();
        writer.write(1, 2, &["ping".into()]).await.unwrap();
        let frame = reader.next(100).await.unwrap().unwrap();
        assert_eq!((frame.kind, frame.flags, &frame.body[..]), (3, 4, &b"pong"[..]));
    };
    let node = async {
        let (mut writer, mut reader) = of_node.accept_stream().await.unwrap();
        let frame = reader.next(100).await.unwrap().unwrap();
        assert_eq!((frame.kind, frame.flags, &frame.body[..]), (1, 2, &b"ping"[..]));
        writer.write(3, 4, &["pong".into()]).await.unwrap();
    };
    tokio::join!(client, node);
}
