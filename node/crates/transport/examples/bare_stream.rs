//! Prints what one QUIC stream moves with a node's settings: `bare_stream [MB] [CHUNK_KIB]`.

use weir_transport::bench::{Direction, bare_stream};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let megabytes: u64 = arguments.next().map_or(Ok(2_000), |text| text.parse())?;
    let chunk_kib: usize = arguments.next().map_or(Ok(1_024), |text| text.parse())?;
    for direction in [Direction::ToNode, Direction::ToClient] {
        let moved = bare_stream(megabytes * 1_000_000, chunk_kib * 1_024, direction)?;
        println!(
            "{direction:?}: {:.0} MB/s, mtu {}, {} packets lost",
            moved.mb_per_s(),
            moved.mtu,
            moved.packets_lost,
        );
    }
    Ok(())
}
