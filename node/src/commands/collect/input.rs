//! What an input is called on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use weir_collect::{Input, Retry};

/// NMEA-0183's own speed, in bits per second.
const BAUD_DEFAULT: u32 = 4_800;

/// Reads the inputs of a command: `-`, `tcp://host:port`, `udp://address:port`,
/// `serial:/dev/ttyX[:baud]`, or files, of which alone there may be several.
pub fn parse(words: &[String]) -> Result<Input, String> {
    let [word] = words else { return files(words) };
    if word == "-" {
        return Ok(Input::Stdin);
    }
    if let Some(address) = word.strip_prefix("tcp://") {
        return tcp(address);
    }
    if let Some(address) = word.strip_prefix("udp://") {
        return udp(address);
    }
    if let Some(device) = word.strip_prefix("serial:") {
        return serial(device);
    }
    files(words)
}

fn tcp(address: &str) -> Result<Input, String> {
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(_) => Ok(Input::Tcp { address: address.to_owned(), retry: Retry::default() }),
        None => Err(format!("`tcp://{address}` has no port: write tcp://host:port")),
    }
}

fn udp(address: &str) -> Result<Input, String> {
    // A port alone listens on all addresses.
    let full = match address.strip_prefix(':') {
        Some(port) => format!("0.0.0.0:{port}"),
        None => address.to_owned(),
    };
    match full.parse::<SocketAddr>() {
        Ok(bind) => Ok(Input::Udp { bind }),
        Err(_) => Err(format!(
            "`udp://{address}` is no address to listen on: write udp://0.0.0.0:10110 or udp://:10110"
        )),
    }
}

fn serial(device: &str) -> Result<Input, String> {
    let (path, baud) = match device.rsplit_once(':') {
        Some((path, baud)) => (path, baud.parse::<u32>().ok().filter(|&baud| baud > 0)),
        None => (device, Some(BAUD_DEFAULT)),
    };
    match baud {
        Some(baud) if !path.is_empty() => {
            Ok(Input::Serial { path: PathBuf::from(path), baud, retry: Retry::default() })
        }
        _ => Err(format!("`serial:{device}` is no device: write serial:/dev/ttyUSB0:9600")),
    }
}

fn files(words: &[String]) -> Result<Input, String> {
    match words
        .iter()
        .find(|word| *word == "-" || word.contains("://") || word.starts_with("serial:"))
    {
        None if words.is_empty() => Err("no input given".to_owned()),
        None => Ok(Input::Files(words.iter().map(PathBuf::from).collect())),
        Some(other) if words.len() > 1 => {
            Err(format!("`{other}` must be the only input; several may only be files"))
        }
        Some(other) => Err(format!(
            "`{other}` is no input: write a file, -, tcp://host:port, udp://address:port or \
             serial:/dev/ttyUSB0:9600"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(words: &[&str]) -> Result<Input, String> {
        parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn inputs() {
        assert_eq!(input(&["-"]), Ok(Input::Stdin));
        assert_eq!(input(&["a", "b.gz"]), Ok(Input::Files(vec!["a".into(), "b.gz".into()])));
        let retry = Retry::default();
        let address = "gps.local:10110".to_owned();
        assert_eq!(input(&["tcp://gps.local:10110"]), Ok(Input::Tcp { address, retry }));
        let bind = "0.0.0.0:10110".parse().unwrap();
        assert_eq!(input(&["udp://:10110"]), Ok(Input::Udp { bind }));
        assert_eq!(input(&["udp://0.0.0.0:10110"]), Ok(Input::Udp { bind }));
        let path = PathBuf::from("/dev/ttyUSB0");
        assert_eq!(
            input(&["serial:/dev/ttyUSB0:9600"]),
            Ok(Input::Serial { path: path.clone(), baud: 9_600, retry })
        );
        let baud = BAUD_DEFAULT;
        assert_eq!(input(&["serial:/dev/ttyUSB0"]), Ok(Input::Serial { path, baud, retry }));
        for wrong in [
            &[][..],
            &["tcp://host"],
            &["udp://host:1"],
            &["serial:/dev/tty:fast"],
            &["serial::9600"],
            &["http://x"],
            &["a", "-"],
            &["tcp://a:1", "tcp://b:1"],
        ] {
            assert!(input(wrong).is_err(), "{wrong:?}");
        }
    }
}
