//! A bad network between nodes: every pair has a proxy of its own in each direction, which does to the bytes what it is
//! told to.
//!
//! What is set for "from 1 to 2" holds for every byte that flows from node 1 to node 2, whichever of them has dialled: in
//! the peers' protocol the receiver does. So a cut in one direction leaves the other direction of the same connection
//! alone, which no real network does so neatly and which is the harder case for Raft.
//!
//! TCP hides loss from programs; what they see of it is delay, silence and broken connections. So [`Fault::Loss`] does what
//! TCP makes of lost packets: a lost piece comes after the timeout after which it would be sent again, twice as late when
//! it is lost again, and everything behind it waits. [`Fault::Break`] does what is left when TCP gives up, and cuts
//! connections in the middle of whatever was under way.
//!
//! All proxies of a network share one thread. Left out: packets as such (reordered, doubled or damaged ones never reach a
//! program through TCP), and handshakes that time out: the proxy's own port always answers.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size, set_socket_send_buffer_size};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, sleep_until, Instant};

use crate::random::Random;

/// What happens to bytes on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// They arrive.
    #[default]
    None,
    /// They wait until the fault is over, as on a cut cable; neither ends of connections nor new ones come through.
    Cut,
    /// They arrive this much later.
    Delay(Duration),
    /// So many of a hundred pieces are lost, and sent again by TCP.
    Loss {
        /// At most 99.
        percent: u8,
    },
    /// So many of a hundred pieces arrive as half a piece, and the connection is reset behind it.
    Break {
        /// At most 100.
        percent: u8,
    },
    /// All connections together carry this much; they take turns.
    Throttle {
        /// At least 1.
        bytes_per_second: u64,
    },
}

/// Bytes are handed on in pieces of at most this size: what one read returns.
const PIECE_BYTES: usize = 16 << 10;
/// Pieces that may be under way in one direction of one connection.
const PIECES_UNDER_WAY: usize = 256;
/// A throttled link passes on at most what it carries in this time before another connection has its turn.
const TURN: Duration = Duration::from_millis(10);
/// What the system may buffer for the proxy, so that a slow link is felt by who sends.
const SOCKET_BYTES: usize = 64 << 10;
/// After this time TCP sends a lost segment again for the first time (Linux's lower limit); each time the wait doubles.
const RETRANSMISSION: Duration = Duration::from_millis(200);
/// The same for the first packet of a connection.
const HANDSHAKE_RETRANSMISSION: Duration = Duration::from_secs(1);
/// The wait is not doubled more often.
const DOUBLINGS_MAX: u32 = 4;

/// One direction between two nodes.
struct Direction {
    fault: watch::Sender<Fault>,
    /// When a throttled link is free again. Tokio's mutex is fair: connections take turns.
    free_at: tokio::sync::Mutex<Instant>,
    random: Mutex<Random>,
    /// The longest time between two pieces of one `message` stream that were handed on, since somebody has asked.
    longest_silence: Mutex<Duration>,
}

impl Direction {
    fn new(seed: u64) -> Direction {
        Direction {
            fault: watch::Sender::new(Fault::None),
            free_at: tokio::sync::Mutex::new(Instant::now()),
            random: Mutex::new(Random::new(seed)),
            longest_silence: Mutex::default(),
        }
    }

    /// The fault, as soon as it is no cut.
    async fn open(&self) -> Fault {
        // The sender is this direction's own: it cannot be gone.
        self.fault.subscribe().wait_for(|fault| *fault != Fault::Cut).await.map_or(Fault::None, |fault| *fault)
    }

    fn happens(&self, percent: u8) -> bool {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).below(100) < percent.into()
    }

    fn longest_silence(&self) -> MutexGuard<'_, Duration> {
        self.longest_silence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How late something arrives that is lost with this chance each time it is sent.
    fn lateness(&self, percent: u8, first_wait: Duration) -> Duration {
        let mut late = Duration::ZERO;
        for times in 0..=DOUBLINGS_MAX {
            if !self.happens(percent) {
                break;
            }
            late += first_wait * 2_u32.pow(times);
        }
        late
    }
}

/// Proxies between all pairs of nodes. Dropping it ends them.
pub struct Network {
    /// By dialler and listener.
    ports: BTreeMap<(u64, u64), u16>,
    /// By sender and receiver.
    directions: BTreeMap<(u64, u64), Arc<Direction>>,
    /// Everything above runs on it.
    _runtime: Runtime,
}

impl Network {
    /// A good network between nodes that listen at these ports; ids are positions, from 1.
    pub fn between(peer_ports: &[u16]) -> Network {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("network").enable_all().build();
        let runtime = runtime.expect("a thread can be started");
        let _guard = runtime.enter();
        let ids = || (1_u64..).zip(peer_ports);
        let pairs = || ids().flat_map(move |(from, _)| ids().map(move |(to, &port)| (from, to, port)));
        let pairs = || pairs().filter(|(from, to, _)| from != to);
        let directions: BTreeMap<(u64, u64), Arc<Direction>> =
            pairs().map(|(from, to, _)| ((from, to), Arc::new(Direction::new(from << 32 | to)))).collect();
        let mut ports = BTreeMap::new();
        for (from, to, target) in pairs() {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the system has a free port");
            ports.insert((from, to), listener.local_addr().expect("a bound socket has an address").port());
            // Connections inherit it.
            set_socket_recv_buffer_size(&listener, SOCKET_BYTES).expect("a buffer can be small");
            listener.set_nonblocking(true).expect("a listener can be made not to block");
            let listener = TcpListener::from_std(listener).expect("a listener can be watched");
            let (onward, back) = (Arc::clone(&directions[&(from, to)]), Arc::clone(&directions[&(to, from)]));
            runtime.spawn(listen(listener, target, onward, back));
        }
        drop(_guard);
        Network { ports, directions, _runtime: runtime }
    }

    /// Where `from` has to dial to reach `to`.
    pub fn port(&self, from: u64, to: u64) -> u16 {
        self.ports[&(from, to)]
    }

    /// Lets this happen to what `from` sends to `to`, from now on and instead of what happened before.
    pub fn set(&self, from: u64, to: u64, fault: Fault) {
        self.directions[&(from, to)].fault.send_replace(fault);
    }

    /// The longest time for which `to` has heard nothing on `from`'s `message` stream, which carries the heartbeats, while it
    /// was open, since this was last asked.
    pub fn take_longest_silence(&self, from: u64, to: u64) -> Duration {
        std::mem::take(&mut self.directions[&(from, to)].longest_silence())
    }

    /// The same in both directions between a node and all others.
    pub fn set_around(&self, id: u64, fault: Fault) {
        for &(from, to) in self.directions.keys().filter(|(from, to)| *from == id || *to == id) {
            self.set(from, to, fault);
        }
    }

    /// The same for everybody.
    pub fn set_everywhere(&self, fault: Fault) {
        for &(from, to) in self.directions.keys() {
            self.set(from, to, fault);
        }
    }
}

async fn listen(listener: TcpListener, target: u16, onward: Arc<Direction>, back: Arc<Direction>) {
    loop {
        let Ok((near, _)) = listener.accept().await else {
            // Out of file descriptors, most likely.
            sleep(TURN).await;
            continue;
        };
        let (onward, back) = (Arc::clone(&onward), Arc::clone(&back));
        tokio::spawn(async move {
            for direction in [&onward, &back] {
                if let Fault::Loss { percent } = direction.open().await {
                    sleep(direction.lateness(percent, HANDSHAKE_RETRANSMISSION)).await;
                }
            }
            // A node that is not there: the connection ends, as if it had been refused.
            let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else {
                let _ = set_socket_linger(&near, Some(Duration::ZERO));
                return;
            };
            let _ = set_socket_send_buffer_size(&far, SOCKET_BYTES);
            for stream in [&near, &far] {
                let _ = stream.set_nodelay(true);
            }
            // Nobody speaks HTTP with half-open connections: the end of one direction is the end.
            let is_message_stream = AtomicBool::new(false);
            let end = tokio::select! {
                end = pass_on(&near, &far, &onward, &is_message_stream) => end,
                end = pass_on(&far, &near, &back, &is_message_stream) => end,
            };
            if end.is_err() {
                // What is closed then is reset.
                for stream in [&near, &far] {
                    let _ = set_socket_linger(stream, Some(Duration::ZERO));
                }
            }
        });
    }
}

struct Piece {
    bytes: Vec<u8>,
    due: Instant,
    /// The connection breaks behind it.
    breaks: bool,
}

/// Passes bytes on until the sender has ended and everything has arrived; an error means that the connection broke.
///
/// Whoever asks for a `message` stream says so in its first bytes; what comes back is timed then.
async fn pass_on(
    from: &TcpStream,
    to: &TcpStream,
    direction: &Direction,
    is_message_stream: &AtomicBool,
) -> io::Result<()> {
    let (pieces, arriving) = mpsc::channel(PIECES_UNDER_WAY);
    let handing_on = hand_on(to, direction, is_message_stream, arriving);
    let (taken, arrived) = tokio::join!(take(from, direction, pieces), handing_on);
    taken.and(arrived)
}

/// Reads until the sender has ended.
async fn take(from: &TcpStream, direction: &Direction, pieces: mpsc::Sender<Piece>) -> io::Result<()> {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        // Whoever hands on may have met a broken connection.
        tokio::select! {
            readable = from.readable() => readable?,
            () = pieces.closed() => return Ok(()),
        }
        let fault = direction.open().await;
        let mut room = PIECE_BYTES;
        let mut turn = None;
        if let Fault::Throttle { bytes_per_second } = fault {
            let per_turn = bytes_per_second * TURN.as_millis() as u64 / 1000;
            room = usize::try_from(per_turn).unwrap_or(PIECE_BYTES).clamp(1, PIECE_BYTES);
            let free_at = direction.free_at.lock().await;
            sleep_until(*free_at).await;
            turn = Some((free_at, bytes_per_second));
        }
        let length = match from.try_read(&mut buffer[..room]) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        if let Some((mut free_at, bytes_per_second)) = turn {
            let late = free_at.elapsed();
            // A timer's lateness is made up for, an idle link's past is not.
            let began = if late < TURN { *free_at } else { Instant::now() };
            *free_at = began + Duration::from_nanos(length as u64 * 1_000_000_000 / bytes_per_second);
        }
        let mut piece = Piece { bytes: buffer[..length].to_vec(), due: Instant::now(), breaks: false };
        match fault {
            Fault::Delay(delay) => piece.due += delay,
            Fault::Loss { percent } => piece.due += direction.lateness(percent, RETRANSMISSION),
            Fault::Break { percent } if direction.happens(percent) => {
                piece.bytes.truncate(length / 2);
                piece.breaks = true;
            }
            _ => {}
        }
        if pieces.send(piece).await.is_err() {
            return Ok(());
        }
    }
}

async fn hand_on(
    to: &TcpStream,
    direction: &Direction,
    is_message_stream: &AtomicBool,
    mut arriving: mpsc::Receiver<Piece>,
) -> io::Result<()> {
    let mut last_arrival: Option<Instant> = None;
    while let Some(Piece { bytes, due, breaks }) = arriving.recv().await {
        sleep_until(due).await;
        // What was under way when the cable was cut has not arrived.
        direction.open().await;
        let asks = bytes.starts_with(b"GET /raft/stream/message/");
        if asks {
            is_message_stream.store(true, Ordering::Relaxed);
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            to.writable().await?;
            match to.try_write(rest) {
                Ok(length) => rest = &rest[length..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if !asks && is_message_stream.load(Ordering::Relaxed) {
            let now = Instant::now();
            let silence = last_arrival.replace(now).map_or(Duration::ZERO, |last| now - last);
            let mut longest = direction.longest_silence();
            *longest = silence.max(*longest);
        }
        if breaks {
            return Err(ErrorKind::ConnectionReset.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener as Listener, TcpStream as Stream};

    /// Node 1's end and node 2's end of a connection that node 1 has dialled.
    fn connection() -> (Network, Stream, Stream) {
        let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let network = Network::between(&[1, port]);
        let near = Stream::connect((Ipv4Addr::LOCALHOST, network.port(1, 2))).expect("the proxy listens");
        let (far, _) = listener.accept().expect("the proxy connects");
        (network, near, far)
    }

    /// Whether these bytes arrive now. Half a second of silence counts as "no".
    fn arrives(stream: &mut Stream, expected: &[u8]) -> bool {
        stream.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        let mut found = vec![0; expected.len()];
        match stream.read_exact(&mut found) {
            Ok(()) => found == expected,
            Err(_) => false,
        }
    }

    #[test]
    fn a_good_network_passes_everything_on_and_ends_too() {
        let (_network, mut near, mut far) = connection();
        near.write_all(b"there").expect("sent");
        far.write_all(b"and back").expect("sent");
        assert!(arrives(&mut far, b"there") && arrives(&mut near, b"and back"));
        drop(near);
        assert_eq!(far.read_to_end(&mut Vec::new()).expect("a clean end"), 0);
    }

    #[test]
    fn silence_on_a_message_stream_is_timed() {
        let (network, mut near, mut far) = connection();
        near.write_all(b"GET /raft/stream/message/1").expect("sent");
        assert!(arrives(&mut far, b"GET /raft/stream/message/1"));
        for _ in 0..2 {
            far.write_all(b"a heartbeat").expect("sent");
            assert!(arrives(&mut near, b"a heartbeat"));
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(network.take_longest_silence(2, 1) >= Duration::from_millis(100));
        assert_eq!(network.take_longest_silence(2, 1), Duration::ZERO);
        assert_eq!(network.take_longest_silence(1, 2), Duration::ZERO);
    }

    #[test]
    fn a_cut_in_one_direction_holds_bytes_back_until_it_is_over() {
        let (network, mut near, mut far) = connection();
        network.set(1, 2, Fault::Cut);
        near.write_all(b"held").expect("sent");
        far.write_all(b"free").expect("sent");
        assert!(arrives(&mut near, b"free") && !arrives(&mut far, b"held"));
        network.set(1, 2, Fault::None);
        assert!(arrives(&mut far, b"held"));
    }

    #[test]
    fn what_breaks_ends_in_the_middle() {
        let (network, mut near, mut far) = connection();
        network.set(1, 2, Fault::Break { percent: 100 });
        near.write_all(b"abcdef").expect("sent");
        let mut read = Vec::new();
        let end = far.read_to_end(&mut read);
        assert!(end.is_err() && b"abc".starts_with(&read), "{end:?}: {read:?}");
    }

    #[test]
    fn delays_and_throttles_take_at_least_their_time() {
        let (network, mut near, mut far) = connection();
        let mut passes = |bytes: usize| {
            let began = Instant::now();
            near.write_all(&vec![7; bytes]).expect("sent");
            far.set_read_timeout(None).expect("a timeout");
            far.read_exact(&mut vec![0; bytes]).expect("everything arrives");
            began.elapsed()
        };
        network.set(1, 2, Fault::Delay(Duration::from_millis(200)));
        assert!(passes(1) >= Duration::from_millis(200));
        network.set(1, 2, Fault::Throttle { bytes_per_second: 100_000 });
        assert!(passes(30_000) >= Duration::from_millis(250));
    }

    #[test]
    fn what_is_lost_comes_later() {
        let direction = Direction::new(1);
        let lateness: Vec<Duration> = (0..1000).map(|_| direction.lateness(30, RETRANSMISSION)).collect();
        let lost = lateness.iter().filter(|late| **late > Duration::ZERO).count();
        assert!((200..400).contains(&lost), "{lost} of 1000");
        let twice = lateness.iter().filter(|late| **late >= RETRANSMISSION * 3).count();
        assert!((30..160).contains(&twice), "{twice} of 1000");
        assert_eq!(direction.lateness(0, RETRANSMISSION), Duration::ZERO);
    }
}
