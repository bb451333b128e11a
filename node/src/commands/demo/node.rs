//! The demo's own node: a broker on a thread and runtime of its own, as `weir node` runs one.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread::JoinHandle;

use tokio::sync::oneshot;
use weir_broker::{Broker, BrokerConfig};
use weir_client::{Client, ClientConfig, TlsConfig};

use crate::commands::sdk;
use crate::exit::{Exit, Failure};

/// A node in this process.
#[derive(Debug)]
pub struct DemoNode {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl DemoNode {
    /// Starts it on a free port of the loopback interface, with its data in `folder`.
    ///
    /// # Errors
    /// Why it could not start.
    pub async fn start(folder: &Path) -> Result<DemoNode, Failure> {
        let mut config = BrokerConfig::new(folder);
        config.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        config.node_name = "demo".to_owned();
        config.compiler = crate::start::compiler();
        let (started, is_started) = oneshot::channel();
        let (stop, stopping) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("weir-demo-node".to_owned())
            .spawn(move || serve(config, started, stopping))?;
        // Nothing comes only if the thread ended by itself, which takes a panic.
        let address = is_started.await.unwrap_or_else(|_| Err("the node ended".to_owned()));
        let address = address.map_err(|error| Failure::new(Exit::Error, error))?;
        Ok(DemoNode { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A client of it, over QUIC like any other.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn client(&self, folder: &Path) -> Result<Client, Failure> {
        let tls = TlsConfig::from_ca_file(folder.join("tls/ca.pem"));
        let mut config = ClientConfig::new(self.address.to_string(), tls);
        config.client_name = concat!("weir-demo/", env!("CARGO_PKG_VERSION")).to_owned();
        let connected = Client::connect(config).await;
        connected.map_err(|error| sdk::connect_failure("connecting to the node", &error))
    }

    /// Stops it in order and waits until its files are closed.
    pub async fn stop(mut self) {
        if let (Some(stop), Some(thread)) = (self.stop.take(), self.thread.take()) {
            // It may have ended already.
            let _ = stop.send(());
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

fn serve(
    config: BrokerConfig,
    started: oneshot::Sender<Result<SocketAddr, String>>,
    stopping: oneshot::Receiver<()>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = started.send(Err(error.to_string()));
            return;
        }
    };
    runtime.block_on(async {
        match Broker::start(config).await {
            Err(error) => {
                let _ = started.send(Err(error.to_string()));
            }
            Ok(broker) => {
                let _ = started.send(Ok(broker.local_addr()));
                // An error says that the demo is gone, which is as good a reason to stop.
                let _ = stopping.await;
                broker.stop().await;
            }
        }
    });
}
