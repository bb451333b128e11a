//! A cluster of real nodes, each in a process of its own.

use crate::node_process::{NodeProcess, weir};
use crate::proxy::Network;
use anyhow::{Context, Result, ensure};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use weir_client::{Client, ClientConfig, TlsConfig};
use weir_core::wire::cluster::ClusterStatus;

/// What does not come about in this time fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A cluster of real nodes.
pub struct Site {
    /// The nodes: the first is number 1, called edge-1.
    pub nodes: Vec<NodeProcess>,
}

impl Site {
    /// Starts so many nodes in `dir`, with certificates of the first one's authority, and waits
    /// until all of them have registered.
    ///
    /// # Errors
    /// If one does not start, or they do not find each other.
    pub async fn start(dir: &Path, nodes: usize) -> Result<Site> {
        Site::start_with(dir, nodes, false).await
    }

    /// The same, of which the last may be a witness.
    ///
    /// # Errors
    /// As [`Site::start`].
    pub async fn start_with(dir: &Path, nodes: usize, witness: bool) -> Result<Site> {
        let addresses = free_addresses(nodes)?;
        Site::start_at(dir, (&addresses, &addresses), witness, &[]).await
    }

    /// The same without a witness, with settings by their environment variables.
    ///
    /// # Errors
    /// As [`Site::start`].
    pub async fn start_set(
        dir: &Path,
        nodes: usize,
        settings: &[(&'static str, &str)],
    ) -> Result<Site> {
        let addresses = free_addresses(nodes)?;
        Site::start_at(dir, (&addresses, &addresses), false, settings).await
    }

    /// Starts nodes with bad links between them: what one sends to another goes through a proxy.
    ///
    /// # Errors
    /// As [`Site::start`].
    pub async fn start_behind(dir: &Path, nodes: usize, seed: u64) -> Result<(Site, Network)> {
        let addresses = free_addresses(nodes)?;
        let network = Network::start(&addresses, seed).await?;
        let fronts: Vec<SocketAddr> = (0..nodes).map(|node| network.front(node)).collect();
        let site = Site::start_at(dir, (&addresses, &fronts), false, &[]).await?;
        network.owned_by(site.processes());
        Ok((site, network))
    }

    /// The processes of the nodes.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        self.nodes.iter().map(NodeProcess::process).collect()
    }

    /// Starts nodes that serve on `addresses` and that others reach at `fronts`.
    async fn start_at(
        dir: &Path,
        (addresses, fronts): (&[SocketAddr], &[SocketAddr]),
        witness: bool,
        settings: &[(&'static str, &str)],
    ) -> Result<Site> {
        let nodes = addresses.len();
        let members: Vec<String> = (1..=nodes)
            .map(|number| format!("{number}=edge-{number}@{}", fronts[number - 1]))
            .collect();
        let members = members.join(",");
        let mut site = Site { nodes: Vec::new() };
        for number in 1..=nodes {
            let home = dir.join(format!("edge-{number}"));
            std::fs::create_dir_all(&home)?;
            if let Some(first) = site.nodes.first() {
                issue(first.data_dir(), &home.join("data"), number)?;
            }
            let address = addresses[number - 1].to_string();
            let role = if witness && number == nodes { "witness" } else { "data" };
            let mut environment: Vec<(&'static str, PathBuf)> = vec![
                ("WEIR_CLUSTER_ROLE", role.into()),
                ("WEIR_NAME", format!("edge-{number}").into()),
                ("WEIR_CLUSTER_MEMBERS", members.clone().into()),
            ];
            environment.extend(settings.iter().map(|(name, value)| (*name, PathBuf::from(value))));
            site.nodes.push(NodeProcess::start_in(&home, &["--listen", &address], environment)?);
        }
        let data = if witness { nodes - 1 } else { nodes };
        let registered = |status: &ClusterStatus| {
            let mut all = status.nodes.iter().take(data);
            all.all(|node| node.incarnation.0 > 0 && !node.fenced)
        };
        site.wait(0, registered).await.context("the nodes do not find each other")?;
        Ok(site)
    }

    /// Adds a node with `weir cluster add`, asked at one of the nodes, and starts it in `dir` with
    /// a certificate of the first node's authority. Its number is the next.
    ///
    /// # Errors
    /// If it does not start.
    pub fn add(&mut self, ask: usize, dir: &Path) -> Result<()> {
        let number = self.nodes.len() + 1;
        let name = format!("edge-{number}");
        let address = free_addresses(1)?[0].to_string();
        let member = format!("{name}@{address}");
        let said = self.nodes[ask].weir(&["cluster", "add", &member]).expect(0);
        ensure!(said.stdout.contains(&format!("{number}={member}")), "{}", said.stdout);
        let home = dir.join(&name);
        std::fs::create_dir_all(&home)?;
        issue(self.nodes[0].data_dir(), &home.join("data"), number)?;
        let first = format!("1=edge-1@{}", self.nodes[0].address());
        let members = format!("{first},{number}={member}");
        let environment: Vec<(&'static str, PathBuf)> =
            vec![("WEIR_NAME", name.into()), ("WEIR_CLUSTER_MEMBERS", members.into())];
        self.nodes.push(NodeProcess::start_in(&home, &["--listen", &address], environment)?);
        Ok(())
    }

    /// Starts a node that is down at another address, which is told to one of the others.
    ///
    /// # Errors
    /// If it does not start.
    pub fn move_to_another_port(&mut self, ask: usize, node: usize, dir: &Path) -> Result<()> {
        let name = format!("edge-{}", node + 1);
        let address = free_addresses(1)?[0].to_string();
        let member = format!("{name}@{address}");
        let said = self.nodes[ask].weir(&["cluster", "add", &member]).expect(0);
        ensure!(said.stdout.contains("from now on"), "{}", said.stdout);
        let members = format!("{}={member}", node + 1);
        let environment: Vec<(&'static str, PathBuf)> =
            vec![("WEIR_NAME", name.clone().into()), ("WEIR_CLUSTER_MEMBERS", members.into())];
        let home = dir.join(&name);
        self.nodes[node] = NodeProcess::start_in(&home, &["--listen", &address], environment)?;
        Ok(())
    }

    /// A client that knows the addresses of these nodes, in this order.
    ///
    /// # Errors
    /// If none of them answers.
    pub async fn client(&self, of: &[usize]) -> Result<Client> {
        let addresses: Vec<String> =
            of.iter().map(|&at| self.nodes[at].address().to_string()).collect();
        let tls = TlsConfig::from_ca_file(self.nodes[0].data_dir().join("tls/ca.pem"));
        Ok(Client::connect(ClientConfig::new(addresses.join(","), tls)).await?)
    }

    /// What one of the nodes says of the cluster.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn status(&self, of: usize) -> Result<ClusterStatus> {
        let client = self.client(&[of]).await?;
        let status = client.admin().cluster().await;
        client.close().await;
        Ok(status?)
    }

    /// Waits until one of the nodes says of the cluster what is wanted, and returns that.
    ///
    /// # Errors
    /// If it does not come about, with what was said last.
    pub async fn wait(
        &self,
        of: usize,
        wanted: impl Fn(&ClusterStatus) -> bool,
    ) -> Result<ClusterStatus> {
        let begun = Instant::now();
        let mut last = None;
        loop {
            match self.status(of).await {
                Ok(status) if wanted(&status) => return Ok(status),
                said => last = Some(said).or(last),
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "it did not come about; node {} said last: {last:#?}\nits log:\n{}",
                of + 1,
                self.nodes[of].log()
            );
            // sleep: between looks at other processes, within a bound
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Which node leads a partition, by its place in [`Site::nodes`].
    ///
    /// # Errors
    /// If nobody comes to lead it.
    pub async fn leader(&self, ask: usize, topic: &str, partition: u32) -> Result<usize> {
        let row = |status: &ClusterStatus| {
            let rows = status.partitions.iter();
            let mut rows = rows.filter(|r| r.topic == topic && r.partition.0 == partition);
            rows.next().and_then(|row| row.leader)
        };
        let status = self.wait(ask, |status| row(status).is_some()).await?;
        Ok(row(&status).context("no leader")?.0 as usize - 1)
    }
}

/// The certificate of another node, from the authority in `from`, put into the folder `to`.
fn issue(from: &Path, to: &Path, number: usize) -> Result<()> {
    let (name, tls) = (format!("edge-{number}"), to.join("tls"));
    std::fs::create_dir_all(&tls)?;
    let (out, data) = (tls.to_string_lossy().into_owned(), from.to_string_lossy().into_owned());
    weir(&["cert", "node", &name, "--out", &out, "--data-dir", &data]).expect(0);
    std::fs::rename(tls.join(format!("{name}.pem")), tls.join("node.pem"))?;
    std::fs::rename(tls.join(format!("{name}.key")), tls.join("node.key"))?;
    std::fs::copy(from.join("tls/ca.pem"), tls.join("ca.pem"))?;
    Ok(())
}

/// Loopback addresses whose ports were free just now: all members must know them before the first
/// of them starts.
///
/// # Errors
/// The system's.
pub fn free_addresses(count: usize) -> Result<Vec<SocketAddr>> {
    let sockets: std::io::Result<Vec<UdpSocket>> =
        (0..count).map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))).collect();
    Ok(sockets?.iter().map(UdpSocket::local_addr).collect::<std::io::Result<_>>()?)
}
