//! What the transport alone can do: the limit that the node's own figures are compared with.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_core::limits::FRAME_BYTES_MAX;

use crate::authority::{Authority, AuthorityError, NODE_VALID};
use crate::client::ClientEndpoint;
use crate::clock::Clock;
use crate::close::CloseReason;
use crate::error::{BindError, ConnectError, ConnectionLost, HandshakeError};
use crate::frame::FrameError;
use crate::identity::IdentityError;
use crate::names::NodeNames;
use crate::server::{ListenConfig, ServerEndpoint};
use crate::settings::ClientProfile;
use crate::tls::{ClientAuth, ClientTls};

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the node, as when producing.
    ToNode,
    /// From the node to the client, as when consuming.
    ToClient,
}

/// What [`bare_stream`] measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throughput {
    /// Bytes moved, frame headers not counted.
    pub bytes: u64,
    /// From the first frame to the acknowledgement of the last.
    pub elapsed: Duration,
    /// Size of the datagrams, UDP payload, in bytes.
    pub mtu: u16,
    /// Packets that the sender found lost.
    pub packets_lost: u64,
}

impl Throughput {
    /// 10⁶ bytes per second.
    pub fn mb_per_s(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.elapsed.as_secs_f64()
    }
}

/// Why the measurement failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// A frame of that size cannot be sent.
    #[error("a chunk has 1 to {FRAME_BYTES_MAX} bytes")]
    ChunkSize,
    /// A runtime or thread could not be made.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
    /// Certificates could not be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Certificates could not be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The listening side could not be set up.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The client could not connect.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The node could not accept.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// A stream failed.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The connection failed.
    #[error(transparent)]
    Lost(#[from] ConnectionLost),
    /// The other side ended without a result.
    #[error("the node's side of the measurement ended early")]
    Ended,
}

/// Moves `total_bytes` over one stream of a loopback connection, in frames of `chunk_bytes`.
///
/// Both ends use the settings of a node and of its clients, each on a single-threaded runtime of
/// its own, as a node runs. Blocks until done; must not be called on a tokio runtime.
///
/// # Errors
/// [`BenchError`]
pub fn bare_stream(
    total_bytes: u64,
    chunk_bytes: usize,
    direction: Direction,
) -> Result<Throughput, BenchError> {
    warm_stream(0, total_bytes, chunk_bytes, direction)
}

/// As [`bare_stream`], over a connection on which `warm_up_bytes` were moved before, by a stream
/// of their own: past the slow start, with the route's MTU known.
///
/// # Errors
/// [`BenchError`]
pub fn warm_stream(
    warm_up_bytes: u64,
    total_bytes: u64,
    chunk_bytes: usize,
    direction: Direction,
) -> Result<Throughput, BenchError> {
    if !(1..=FRAME_BYTES_MAX).contains(&chunk_bytes) {
        return Err(BenchError::ChunkSize);
    }
    let clock = Clock::system();
    let authority = Authority::in_memory(&clock)?;
    let identity = authority.issue_node(&NodeNames::new("bench")?, NODE_VALID)?.identity()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut listen = ListenConfig::new(address, identity, authority.trust().clone());
    listen.client_auth = ClientAuth::Optional;
    let transfer = Transfer { warm_up_bytes, total_bytes, chunk_bytes, direction };

    let (address_sender, address_receiver) = mpsc::channel();
    let node = thread::Builder::new()
        .name("bench-node".into())
        .spawn(move || single_threaded()?.block_on(run_node(listen, transfer, address_sender)))?;
    let client = match address_receiver.recv() {
        Ok(address) => {
            let tls = ClientTls::new(authority.trust().clone());
            single_threaded()
                .map_err(BenchError::from)
                .and_then(|runtime| runtime.block_on(run_client(tls, address, transfer)))
        }
        Err(mpsc::RecvError) => Err(BenchError::Ended),
    };
    let node = node.join().unwrap_or(Err(BenchError::Ended));
    match (client, node) {
        // The node's error is the cause where the client only saw the connection end.
        (Err(BenchError::Ended) | Ok(_), Err(error)) | (Err(error), _) => Err(error),
        (Ok(throughput), Ok(of_node)) => Ok(match direction {
            Direction::ToNode => throughput,
            Direction::ToClient => Throughput { packets_lost: of_node, ..throughput },
        }),
    }
}

#[derive(Clone, Copy)]
struct Transfer {
    warm_up_bytes: u64,
    total_bytes: u64,
    chunk_bytes: usize,
    direction: Direction,
}

impl Transfer {
    /// What the streams of a connection move, one after the other.
    fn runs(self) -> impl Iterator<Item = Transfer> {
        let warm_up = Transfer { total_bytes: self.warm_up_bytes, ..self };
        [warm_up, self].into_iter().filter(|run| run.total_bytes > 0)
    }
}

/// Returns the packets lost on the way to the client.
async fn run_node(
    listen: ListenConfig,
    transfer: Transfer,
    address: mpsc::Sender<SocketAddr>,
) -> Result<u64, BenchError> {
    let endpoint = ServerEndpoint::bind(listen)?;
    address.send(endpoint.local_address()?).map_err(|_| BenchError::Ended)?;
    drop(address);
    let connection = endpoint.accept().await.ok_or(BenchError::Ended)?.handshake().await?;
    for transfer in transfer.runs() {
        let (mut writer, mut reader) = connection.accept_stream().await?;
        // The first frame only opens the stream.
        reader.next(0).await?;
        match transfer.direction {
            Direction::ToNode => {
                receive(&mut reader, transfer).await?;
                writer.write(0, 0, &[]).await?;
            }
            Direction::ToClient => send(&mut writer, transfer).await?,
        }
    }
    connection.closed().await;
    Ok(connection.stats().packets_lost)
}

async fn run_client(
    tls: ClientTls,
    address: SocketAddr,
    transfer: Transfer,
) -> Result<Throughput, BenchError> {
    let endpoint = ClientEndpoint::new(tls)?;
    let connection = endpoint.connect(address, None, ClientProfile::Control).await?;
    let mut elapsed = Duration::ZERO;
    for transfer in transfer.runs() {
        let started = Instant::now();
        let (mut writer, mut reader) = connection.open_stream().await?;
        writer.write(0, 0, &[]).await?;
        match transfer.direction {
            Direction::ToNode => {
                send(&mut writer, transfer).await?;
                reader.next(0).await?;
            }
            Direction::ToClient => receive(&mut reader, transfer).await?,
        }
        // The last run counts.
        elapsed = started.elapsed();
    }
    let stats = connection.stats();
    connection.close(CloseReason::Normal, "");
    endpoint.wait_idle().await;
    Ok(Throughput {
        bytes: transfer.total_bytes,
        elapsed,
        mtu: stats.mtu,
        packets_lost: stats.packets_lost,
    })
}

async fn send(
    writer: &mut crate::stream::FrameWriter,
    transfer: Transfer,
) -> Result<(), FrameError> {
    let chunk = Bytes::from(vec![0x5a; transfer.chunk_bytes]);
    let mut left = transfer.total_bytes;
    while left > 0 {
        let take = left.min(chunk.len() as u64);
        left -= take;
        writer.write(1, 0, &[chunk.slice(..take as usize)]).await?;
    }
    Ok(())
}

async fn receive(
    reader: &mut crate::stream::FrameReader,
    transfer: Transfer,
) -> Result<(), FrameError> {
    let mut left = transfer.total_bytes;
    while left > 0 {
        let frame = reader.next(transfer.chunk_bytes).await?.ok_or(FrameError::Truncated)?;
        left = left.saturating_sub(frame.body.len() as u64);
    }
    Ok(())
}

fn single_threaded() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
