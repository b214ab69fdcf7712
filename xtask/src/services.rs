//! `cargo xtask services`: real servers on loopback, with ports and folders of their own.
//!
//! A running server is known by a state file, so that every command can be given twice.
//! The servers themselves are data: [`table`].

mod table;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use self::table::{Process, Ready, SERVERS, Server};
use crate::failure::{Failure, OrFail as _, Result};
use crate::{process, workspace};

const USAGE: &str = "usage: cargo xtask services up|down|status|env [NAME…]";

/// How long a server may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How long a server may take to end before it is killed.
const STOPPED_WITHIN: Duration = Duration::from_secs(10);

const POLL: Duration = Duration::from_millis(50);

/// A socket's path may have at most 107 bytes on Linux.
const SOCKET_PATH_LIMIT: usize = 100;

/// The user that servers run as when we are root.
const UNPRIVILEGED: [&str; 4] = [
    "setpriv",
    "--reuid=nobody",
    "--regid=nogroup",
    "--clear-groups",
];

/// `cargo xtask services …`.
pub(crate) fn command(args: &[String]) -> Result<u8> {
    let Some((verb, names)) = args.split_first() else {
        return Err(Failure::usage(format!("{USAGE}\n{}", known())));
    };
    let chosen = choose(names)?;
    match verb.as_str() {
        "up" => up(&chosen),
        "down" => each(&chosen, down),
        "status" => each(&chosen, status),
        "env" => {
            for (name, value) in variables()? {
                println!("export {name}='{value}'");
            }
            Ok(0)
        }
        _ => Err(Failure::usage(format!("{USAGE}\n{}", known()))),
    }
}

/// `MICRO_TEST_<NAME>_URL` of every server that is running.
pub(crate) fn variables() -> Result<Vec<(String, String)>> {
    let mut variables = Vec::new();
    for server in SERVERS {
        let place = Place::of(server)?;
        if place.running()? {
            variables.push((variable(server), place.fill(server.url)));
        }
    }
    Ok(variables)
}

fn known() -> String {
    let names: Vec<&str> = SERVERS.iter().map(|server| server.name).collect();
    format!("servers: {}", names.join(", "))
}

fn choose(names: &[String]) -> Result<Vec<&'static Server>> {
    if names.is_empty() {
        return Ok(SERVERS.iter().collect());
    }
    names
        .iter()
        .map(|name| {
            SERVERS
                .iter()
                .find(|server| server.name == name)
                .ok_or_else(|| Failure::usage(format!("no server `{name}`\n{}", known())))
        })
        .collect()
}

fn each(servers: &[&Server], act: fn(&Server) -> Result<()>) -> Result<u8> {
    for server in servers {
        act(server)?;
    }
    Ok(0)
}

fn up(servers: &[&Server]) -> Result<u8> {
    let mut failed = false;
    for server in servers {
        // One server that cannot start does not keep the others from it.
        if let Err(failure) = start(server) {
            eprintln!("{}: {}", server.name, failure.text);
            failed = true;
        }
    }
    for (name, value) in variables()? {
        println!("{name}={value}");
    }
    Ok(u8::from(failed))
}

fn start(server: &Server) -> Result<()> {
    let place = Place::of(server)?;
    if place.running()? {
        // Somebody may have started it a moment ago.
        wait(Instant::now() + READY_WITHIN, &mut [], || {
            place.ready(&server.ready)
        })?;
        println!("{}: already up", server.name);
        return Ok(());
    }
    install(server)?;
    // What a crashed run left behind is ended, and its folder is not reused.
    place.stop(server)?;
    place.make(server)?;
    if place.ready(&server.ready) {
        return Err(Failure::new(
            "something that we did not start answers on its port; end it first",
        ));
    }
    let started = Instant::now();
    match place.start(server) {
        Ok(()) => {
            println!("{}: up after {:.1?}", server.name, started.elapsed());
            Ok(())
        }
        Err(failure) => {
            let log = fs::read_to_string(place.log()).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(20).collect();
            for line in last.iter().rev() {
                eprintln!("{}: | {line}", server.name);
            }
            place.stop(server)?;
            Err(failure)
        }
    }
}

fn down(server: &Server) -> Result<()> {
    let place = Place::of(server)?;
    let said = if place.stop(server)? {
        "down"
    } else {
        "was not up"
    };
    println!("{}: {said}", server.name);
    Ok(())
}

fn status(server: &Server) -> Result<()> {
    let place = Place::of(server)?;
    if place.running()? {
        let processes = place.processes()?;
        let pids: Vec<String> = processes.iter().map(|one| one.pid.to_string()).collect();
        let answers = if place.ready(&server.ready) {
            "ready"
        } else {
            "not ready"
        };
        println!(
            "{}: up, {answers}, pid {}, {}={}",
            server.name,
            pids.join(" "),
            variable(server),
            place.fill(server.url)
        );
    } else {
        println!("{}: down", server.name);
    }
    Ok(())
}

fn variable(server: &Server) -> String {
    format!("MICRO_TEST_{}_URL", server.name.to_uppercase())
}

/// Installs the packages if a program is missing, and says how to do it by hand if we may not.
fn install(server: &Server) -> Result<()> {
    let missing = || -> Vec<&str> {
        let absent = |program: &&&str| find_program(program).is_none();
        server.programs.iter().filter(absent).copied().collect()
    };
    if missing().is_empty() {
        return Ok(());
    }
    let packages = server.packages.join(" ");
    let by_hand = format!("apt-get install -y --no-install-recommends {packages}");
    if !is_root() || find_program("apt-get").is_none() {
        return Err(Failure::new(format!(
            "missing: {}. Install it by hand, as root on Debian: {by_hand}",
            missing().join(", ")
        )));
    }
    let apt = |args: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.args(args).env("DEBIAN_FRONTEND", "noninteractive");
        process::run(&mut apt)
    };
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(server.packages);
    // The package lists may be absent or old: fetch them only when the first try says so.
    let installed =
        apt(&install)?.success() || (apt(&["update"])?.success() && apt(&install)?.success());
    if !installed {
        return Err(Failure::new(format!("could not install it: {by_hand}")));
    }
    match missing().as_slice() {
        [] => Ok(()),
        still => Err(Failure::new(format!(
            "installed {packages}, and still missing: {}",
            still.join(", ")
        ))),
    }
}

/// Looks in `PATH` and where Debian puts servers.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from));
    // PostgreSQL keeps one folder per major version; the newest one comes first.
    let mut postgres: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    postgres.sort();
    folders.extend(postgres.into_iter().rev());
    folders
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

fn is_root() -> bool {
    process::output_of(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0")
}

/// The folder of one server, and the processes its state file names.
struct Place {
    dir: PathBuf,
    sock: PathBuf,
}

impl Place {
    fn of(server: &Server) -> Result<Self> {
        let mut dir = workspace::target_dir().join("services").join(server.name);
        if is_root() && !server.keeps_user && !others_may_enter(&workspace::target_dir()) {
            // A checkout below a private home is closed to the user that the server runs as.
            dir = env::temp_dir().join("micro-services").join(server.name);
        }
        let mut sock = dir.join("sock");
        if sock.as_os_str().len() > SOCKET_PATH_LIMIT {
            sock = env::temp_dir().join(format!("micro-{}.sock", server.name));
        }
        Ok(Self { dir, sock })
    }

    fn fill(&self, text: &str) -> String {
        text.replace("{dir}", &self.dir.display().to_string())
            .replace("{sock}", &self.sock.display().to_string())
    }

    fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The processes of the last start: one line each, number and time of birth.
    fn processes(&self) -> Result<Vec<Running>> {
        match fs::read_to_string(self.state()) {
            Ok(text) => Ok(text.lines().filter_map(Running::read).collect()),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(err) => Err(err).or_fail(self.state().display()),
        }
    }

    /// Whether every process of the last start is alive.
    fn running(&self) -> Result<bool> {
        let processes = self.processes()?;
        Ok(!processes.is_empty() && processes.iter().all(Running::alive))
    }

    /// Makes the folder afresh, with the files that the server wants.
    fn make(&self, server: &Server) -> Result<()> {
        if self.dir.exists() {
            fs::remove_dir_all(&self.dir).or_fail(self.dir.display())?;
        }
        let _ = fs::remove_file(&self.sock);
        fs::create_dir_all(&self.dir).or_fail(self.dir.display())?;
        for (name, text) in server.files {
            let path = self.dir.join(name);
            fs::write(&path, self.fill(text)).or_fail(path.display())?;
        }
        if is_root() && !server.keeps_user {
            let mut chown = Command::new("chown");
            chown.args(["-R", "nobody:nogroup"]).arg(&self.dir);
            process::output_of(&mut chown)
                .ok_or_else(|| Failure::new("could not give its folder to `nobody`"))?;
        }
        Ok(())
    }

    fn start(&self, server: &Server) -> Result<()> {
        for words in server.prepare {
            let mut command = self.command(server, words)?;
            let log = self.append_log()?;
            let shown = process::show(&command);
            let status = command
                .stdout(log.try_clone().or_fail(&shown)?)
                .stderr(log)
                .status()
                .or_fail(&shown)?;
            if !status.success() {
                return Err(Failure::new(format!("`{shown}` failed: {status}")));
            }
        }
        // Not before: what prepares it may have to build it first.
        let deadline = Instant::now() + READY_WITHIN;
        let mut children = Vec::new();
        for process in server.processes {
            children.push(self.launch(server, process)?);
            if let Some(path) = process.makes {
                let path = PathBuf::from(self.fill(path));
                wait(deadline, &mut children, || path.exists())?;
            }
        }
        wait(deadline, &mut children, || self.ready(&server.ready))
    }

    /// Starts a program that outlives us, and writes down its number.
    fn launch(&self, server: &Server, process: &Process) -> Result<Child> {
        let mut command = self.command(server, process.command)?;
        for (name, value) in process.env {
            command.env(name, self.fill(value));
        }
        let log = self.append_log()?;
        let shown = process::show(&command);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().or_fail(&shown)?)
            .stderr(log);
        // A group of its own: an interrupt typed at us is not meant for the server.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().or_fail(&shown)?;
        let mut state = File::options()
            .create(true)
            .append(true)
            .open(self.state())
            .or_fail(self.state().display())?;
        let running = Running::new(child.id());
        writeln!(state, "{} {}", running.pid, running.born).or_fail(self.state().display())?;
        Ok(child)
    }

    /// A command in the server's folder, as the server's user.
    fn command(&self, server: &Server, words: &[&str]) -> Result<Command> {
        let (name, args) = words
            .split_first()
            .ok_or_else(|| Failure::new("no command"))?;
        let program =
            find_program(name).ok_or_else(|| Failure::new(format!("`{name}` is missing")))?;
        let mut command = if is_root() && !server.keeps_user {
            let mut command = Command::new(UNPRIVILEGED[0]);
            command.args(&UNPRIVILEGED[1..]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command
            .args(args.iter().map(|arg| self.fill(arg)))
            .current_dir(&self.dir)
            .env("HOME", &self.dir)
            .env("LC_ALL", "C.UTF-8");
        Ok(command)
    }

    fn append_log(&self) -> Result<File> {
        File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .or_fail(self.log().display())
    }

    fn ready(&self, ready: &Ready) -> bool {
        match ready {
            Ready::Talk { port, say, answer } => {
                talk(*port, say).is_some_and(|said| said.contains(answer))
            }
            Ready::Command(words) => words.split_first().is_some_and(|(name, args)| {
                find_program(name).is_some_and(|program| {
                    process::output_of(Command::new(program).args(args)).is_some()
                })
            }),
            Ready::Log(text) => fs::read_to_string(self.log()).is_ok_and(|log| log.contains(text)),
        }
    }

    /// Ends the processes, the last one first; whether there were any.
    fn stop(&self, server: &Server) -> Result<bool> {
        let mut found = false;
        for (at, running) in self.processes()?.iter().enumerate().rev() {
            if !running.alive() {
                continue;
            }
            found = true;
            let signal = server
                .processes
                .get(at)
                .map_or("TERM", |process| process.stop);
            if !running.end(signal) {
                eprintln!("{}: it did not end in time and is killed", server.name);
                if !running.end("KILL") {
                    let pid = running.pid;
                    return Err(Failure::new(format!("process {pid} does not end")));
                }
            }
        }
        match fs::remove_file(self.state()) {
            Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
                return Err(err).or_fail(self.state().display());
            }
            _ => {}
        }
        let _ = fs::remove_file(&self.sock);
        Ok(found)
    }
}

/// Waits for a condition, a child that ends before it, or the deadline.
fn wait(deadline: Instant, children: &mut [Child], mut done: impl FnMut() -> bool) -> Result<()> {
    loop {
        for child in &mut *children {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(Failure::new(format!("ended at once: {status}")));
            }
        }
        if done() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(format!("not ready after {READY_WITHIN:?}")));
        }
        thread::sleep(POLL);
    }
}

/// A process by number and time of birth: a number alone may be a stranger's by now.
#[derive(Debug)]
struct Running {
    pid: u32,
    /// In the kernel's ticks since boot; empty if the process is gone already.
    born: String,
}

impl Running {
    fn new(pid: u32) -> Self {
        let born = born(pid).unwrap_or_default();
        Self { pid, born }
    }

    fn read(line: &str) -> Option<Self> {
        let (pid, born) = line.split_once(' ')?;
        Some(Self {
            pid: pid.parse().ok()?,
            born: born.to_owned(),
        })
    }

    fn alive(&self) -> bool {
        born(self.pid).is_some_and(|born| born == self.born)
    }

    /// Sends a signal and waits; whether the process ended.
    fn end(&self, signal: &str) -> bool {
        // A program, not the system call: that would need `unsafe` or a dependency.
        let _ = Command::new("kill")
            .args(["-s", signal, &self.pid.to_string()])
            .stderr(Stdio::null())
            .status();
        let deadline = Instant::now() + STOPPED_WITHIN;
        while self.alive() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        !self.alive()
    }
}

/// When a process was born; nothing if it is gone, or ended and only not yet buried.
fn born(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in brackets and may contain anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let state = *fields.first()?;
    (state != "Z" && state != "X").then(|| fields.get(19).copied().unwrap_or_default().to_owned())
}

/// Says something to a port of loopback and returns what comes back within a second.
fn talk(port: u16, say: &str) -> Option<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let second = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&address, second).ok()?;
    stream.set_read_timeout(Some(second)).ok()?;
    stream.write_all(say.as_bytes()).ok()?;
    let mut said = Vec::new();
    let mut part = [0; 4096];
    // One read is not always one answer: an HTTP head and its body may come apart.
    while let Ok(read @ 1..) = stream.read(&mut part) {
        said.extend_from_slice(&part[..read]);
        if said.starts_with(b"+") {
            break;
        }
    }
    Some(String::from_utf8_lossy(&said).into_owned())
}

/// Whether a user who owns nothing may pass through every folder of a path.
fn others_may_enter(path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        path.ancestors().all(|folder| match fs::metadata(folder) {
            Ok(meta) => meta.permissions().mode() & 0o001 != 0,
            // A folder that is not there yet will be made by us, open.
            Err(_) => true,
        })
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_table_is_consistent() {
        let by_name: BTreeMap<&str, &Server> =
            SERVERS.iter().map(|server| (server.name, server)).collect();
        assert_eq!(by_name.len(), SERVERS.len(), "two servers share a name");
        for server in SERVERS {
            assert!(!server.processes.is_empty(), "{}", server.name);
            let commands = server.prepare.iter().copied();
            for command in commands.chain(server.processes.iter().map(|p| p.command)) {
                assert!(
                    server.programs.contains(&command[0]),
                    "{}: {} is not looked for before the start",
                    server.name,
                    command[0]
                );
            }
        }
    }

    #[test]
    fn an_unknown_server_names_the_known_ones() {
        let failure = choose(&["oracle".to_owned()]).expect_err("there is none");
        assert!(failure.text.contains("avahi"), "{}", failure.text);
        assert_eq!(failure.status, 2);
    }

    #[test]
    fn a_process_is_known_by_its_birth() {
        let own = Running::new(std::process::id());
        assert!(own.alive());
        let reused = Running {
            born: "1".to_owned(),
            ..own
        };
        assert!(!reused.alive());
        assert!(Running::read("12 345").is_some_and(|one| one.pid == 12 && one.born == "345"));
        assert!(Running::read("nonsense").is_none());
    }

    #[test]
    fn a_reply_is_heard() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = thread::spawn(move || {
            let (mut peer, _) = listener.accept().expect("a peer");
            let mut heard = [0; 6];
            peer.read_exact(&mut heard).expect("a line");
            peer.write_all(b"+PONG\r\n").expect("an answer");
        });
        assert_eq!(talk(port, "PING\r\n").as_deref(), Some("+PONG\r\n"));
        server.join().expect("it ends");
    }
}
