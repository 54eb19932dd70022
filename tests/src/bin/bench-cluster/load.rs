//! The load: many connections, one thread, one request under way on each.
//!
//! Programs, clients and disk share one machine, so what the clients cost is taken from what they measure. One thread
//! waits for all sockets at once; requests are made beforehand; an answer is looked at just enough to find its end and its
//! status. The same code drives every program.
//!
//! Each connection sends its next request when the former is answered (a closed loop): a program that is slow is
//! asked less, so latencies of different programs are at different throughputs. The plot shows both.
//!
//! What is left out: TLS, pipelining, a pace (see `benches/catch_up.rs`).

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{epoll, Timespec};

/// If no connection gets an answer for so long, all requests that are under way count as failed, and the load ends.
const PATIENCE: Duration = Duration::from_secs(10);
/// No answer is longer: values are small here.
const ANSWER_MAX_BYTES: usize = 64 << 10;

/// When to send no more.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// This time has passed.
    Elapsed(Duration),
    /// So many requests have been sent.
    Sent(u64),
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// From sending to the whole answer, in microseconds; of good answers only. Those to requests that were under way when
    /// the time was over are among them.
    pub(crate) latencies_us: Vec<u32>,
    /// Good answers that came while requests were being sent.
    pub(crate) in_time: u64,
    /// For how long requests were sent.
    pub(crate) elapsed: Duration,
    /// Answers with another status than was expected, none at all, or broken connections.
    pub(crate) failed: u64,
}

impl Outcome {
    /// Good answers a second.
    pub(crate) fn per_second(&self) -> f64 {
        self.in_time as f64 / self.elapsed.as_secs_f64()
    }
}

/// Sends `requests`, again and again, on this many connections, spread over `targets` in turn, the first of which gets the
/// first. A good answer has the status `expected`.
pub(crate) fn drive(
    targets: &[SocketAddr],
    connections: usize,
    requests: &[Vec<u8>],
    expected: u16,
    until: Until,
) -> io::Result<Outcome> {
    let mut load = Load::connect(targets, connections, requests, expected)?;
    let began = Instant::now();
    let (deadline, mut left) = match until {
        Until::Elapsed(time) => (Some(began + time), u64::MAX),
        Until::Sent(count) => (None, count),
    };
    for at in 0..load.clients.len() {
        if left > 0 {
            left -= 1;
            load.send(at)?;
        }
    }
    let mut over = None;
    while load.under_way > 0 {
        for at in load.wait()? {
            let now = Instant::now();
            if !load.receive(at, now)? {
                continue;
            }
            if left == 0 || deadline.is_some_and(|deadline| now >= deadline) {
                over.get_or_insert((now, load.outcome.latencies_us.len() as u64));
            } else {
                left -= 1;
                load.send(at)?;
            }
        }
    }
    let mut outcome = load.outcome;
    let all = outcome.latencies_us.len() as u64;
    (outcome.elapsed, outcome.in_time) =
        over.map_or((began.elapsed(), all), |(at, answered)| (at.duration_since(began), answered));
    Ok(outcome)
}

/// One connection.
struct Client {
    address: SocketAddr,
    stream: TcpStream,
    /// Position of the request to send next.
    next: usize,
    /// What has arrived of the answer.
    answer: Vec<u8>,
    /// When the request was sent whose answer is awaited.
    sent_at: Option<Instant>,
}

struct Load<'a> {
    poll: rustix::fd::OwnedFd,
    events: Vec<epoll::Event>,
    clients: Vec<Client>,
    requests: &'a [Vec<u8>],
    expected: u16,
    under_way: usize,
    outcome: Outcome,
    buffer: Vec<u8>,
}

impl<'a> Load<'a> {
    fn connect(targets: &[SocketAddr], connections: usize, requests: &'a [Vec<u8>], expected: u16) -> io::Result<Self> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut clients = Vec::new();
        for at in 0..connections {
            let address = targets[at % targets.len()];
            // Connections begin at different places, so that they do not write the same keys at the same time.
            let next = at * requests.len() / connections;
            clients.push(Client {
                address,
                stream: open(&poll, at, address)?,
                next,
                answer: Vec::new(),
                sent_at: None,
            });
        }
        let (events, buffer) = (Vec::with_capacity(connections), vec![0; ANSWER_MAX_BYTES]);
        Ok(Load { poll, events, clients, requests, expected, under_way: 0, outcome: Outcome::default(), buffer })
    }

    /// Sends the next request of a connection; on a new one, if this one turns out to be closed.
    fn send(&mut self, at: usize) -> io::Result<()> {
        if self.try_to_send(at).is_err() {
            self.fail(at)?;
            self.try_to_send(at)?;
        }
        Ok(())
    }

    fn try_to_send(&mut self, at: usize) -> io::Result<()> {
        let client = &mut self.clients[at];
        let request = &self.requests[client.next];
        client.next = (client.next + 1) % self.requests.len();
        client.sent_at = Some(Instant::now());
        self.under_way += 1;
        // Small enough for the socket's buffer: this does not wait.
        client.stream.write_all(request)
    }

    /// The connections that have something to read.
    fn wait(&mut self) -> io::Result<Vec<usize>> {
        self.events.clear();
        let timeout = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        match epoll::wait(&self.poll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(0) => {
                self.outcome.failed += self.under_way as u64;
                self.under_way = 0;
            }
            Err(error) if error != rustix::io::Errno::INTR => return Err(error.into()),
            _ => {}
        }
        Ok(self.events.iter().map(|event| event.data.u64() as usize).collect())
    }

    /// Reads what is there; whether the request that was under way has ended, well or not.
    fn receive(&mut self, at: usize, now: Instant) -> io::Result<bool> {
        let client = &mut self.clients[at];
        let read = match client.stream.read(&mut self.buffer) {
            Ok(0) => Err(()),
            Ok(count) => {
                client.answer.extend_from_slice(&self.buffer[..count]);
                answer(&client.answer)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(false),
            Err(_) => Err(()),
        };
        match (read, client.sent_at) {
            (Ok(None), _) => Ok(false),
            (Ok(Some(Answer { status, bytes })), Some(sent_at)) if bytes == client.answer.len() => {
                client.answer.clear();
                client.sent_at = None;
                self.under_way -= 1;
                if status == self.expected {
                    let micros = now.duration_since(sent_at).as_micros();
                    self.outcome.latencies_us.push(u32::try_from(micros).unwrap_or(u32::MAX));
                } else {
                    self.outcome.failed += 1;
                }
                Ok(true)
            }
            // Closed, no HTTP, or more than was asked for.
            _ => self.fail(at).map(|()| true),
        }
    }

    /// Gives up the request that is under way there, and begins a new connection.
    fn fail(&mut self, at: usize) -> io::Result<()> {
        let client = &mut self.clients[at];
        if client.sent_at.take().is_some() {
            self.under_way -= 1;
            self.outcome.failed += 1;
        }
        client.answer.clear();
        client.stream = open(&self.poll, at, client.address)?;
        Ok(())
    }
}

/// A connection whose events carry `at`. Closing it takes it out of the poll.
fn open(poll: &rustix::fd::OwnedFd, at: usize, address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    epoll::add(poll, &stream, epoll::EventData::new_u64(at as u64), epoll::EventFlags::IN)?;
    Ok(stream)
}

/// What matters of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// Of header and body.
    bytes: usize,
}

/// Finds the end of the answer at the beginning of `bytes`; nothing if it has not arrived yet.
fn answer(bytes: &[u8]) -> Result<Option<Answer>, ()> {
    let Some(header) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let (head, body_at) = (std::str::from_utf8(&bytes[..header]).map_err(|_| ())?, header + 4);
    let mut lines = head.split("\r\n");
    let status_line = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).ok_or(())?;
    let status: u16 = status_line.get(..3).and_then(|digits| digits.parse().ok()).ok_or(())?;
    let mut length = if status == 204 { Some(0) } else { None };
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok();
        }
    }
    // Chunked answers are not understood: no program here gives one when it does what it is asked.
    let bytes_in_all = body_at + length.ok_or(())?;
    Ok((bytes.len() >= bytes_in_all).then_some(Answer { status, bytes: bytes_in_all }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn an_answer_ends_where_its_length_says() {
        let put = b"HTTP/1.1 204 No Content\r\ndate: today\r\n\r\n";
        assert_eq!(answer(put), Ok(Some(Answer { status: 204, bytes: put.len() })));
        let get = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nvalue";
        assert_eq!(answer(get), Ok(Some(Answer { status: 200, bytes: get.len() })));
        for cut in 0..get.len() {
            assert_eq!(answer(&get[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(answer(b"SSH-2.0\r\n\r\n"), Err(()));
        assert_eq!(answer(b"HTTP/1.1 200 OK\r\n\r\n"), Err(()), "nobody knows where it ends");
    }

    /// Answers each request line it gets with the next of `answers`, for as many connections.
    fn server(answers: &'static [&'static [u8]]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut buffer = [0; 1024];
                    for answer in answers.iter().cycle() {
                        match stream.read(&mut buffer) {
                            Ok(count) if count > 0 && !answer.is_empty() => stream.write_all(answer).unwrap(),
                            _ => return,
                        }
                    }
                });
            }
        });
        address
    }

    #[test]
    fn every_request_is_counted_once_by_what_became_of_it() {
        let good: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";
        let bad: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
        let requests = vec![b"PUT /k HTTP/1.1\r\n\r\n".to_vec()];
        static MIXED: [&[u8]; 3] =
            [b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", b""];
        assert_eq!((MIXED[0], MIXED[1]), (good, bad));
        // Two answers, then a closed connection, and again.
        let outcome = drive(&[server(&MIXED)], 1, &requests, 204, Until::Sent(30)).unwrap();
        assert_eq!((outcome.latencies_us.len(), outcome.failed), (10, 20));
        let outcome = drive(&[server(&MIXED[..1]), server(&MIXED[..1])], 5, &requests, 204, Until::Sent(101)).unwrap();
        assert_eq!((outcome.latencies_us.len(), outcome.failed), (101, 0));
        assert!(outcome.in_time <= 101 && outcome.in_time >= 97, "{}", outcome.in_time);
    }

    #[test]
    fn a_connection_that_is_found_closed_does_not_fall_silent() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let requests = vec![b"PUT /k HTTP/1.1\r\n\r\n".to_vec()];
        let mut load = Load::connect(&[listener.local_addr().unwrap()], 1, &requests, 204).unwrap();
        drop(listener.accept().unwrap());
        // The first request tells the other side's system to refuse what comes behind it.
        load.send(0).unwrap();
        while load.clients[0].stream.take_error().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        load.clients[0].sent_at = None;
        load.under_way = 0;
        load.send(0).unwrap();
        assert_eq!((load.outcome.failed, load.under_way), (1, 1));
        let mut arrived = [0; 3];
        listener.accept().unwrap().0.read_exact(&mut arrived).unwrap();
        assert_eq!(&arrived, b"PUT");
    }

    #[test]
    fn a_load_ends_when_its_time_is_over() {
        static GOOD: [&[u8]; 1] = [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"];
        let requests = vec![b"GET /k HTTP/1.1\r\n\r\n".to_vec()];
        let time = Duration::from_millis(50);
        let outcome = drive(&[server(&GOOD)], 3, &requests, 200, Until::Elapsed(time)).unwrap();
        assert!(outcome.elapsed >= time && outcome.in_time > 0 && outcome.failed == 0);
        assert!(outcome.latencies_us.len() as u64 >= outcome.in_time);
    }
}
