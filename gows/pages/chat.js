// The chat page. What the server sends is JSON with a `type`; what we send is the plain text of a message, and each is
// answered exactly once, in order: by our own message coming back, or by an error. Everything that others wrote reaches
// the page through textContent only.

const FIRST_DELAY = 1000; // milliseconds before the first new attempt; doubled by each that fails
const LONGEST_DELAY = 30000;
const LONGEST_LOG = 1000; // entries kept on the page
const SAME_BREATH = 300; // seconds within which messages of one person stand together

const find = (id) => document.getElementById(id);
const log = find("log");
const text = find("text");
const pageTitle = document.title;
const wanted = document.body.dataset.user;

let socket = null;
let me = wanted;
let limit = 4096; // bytes in a message; the server's welcome says how many
let attempts = 0;
let timer = 0;
let unread = 0;
let wasLost = false;
let undelivered = []; // texts sent and not yet answered
let last = null; // the message that stands at the end of the log

// --- small builders

function element(tag, className, content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (content !== undefined) made.textContent = content;
  return made;
}

function nameOf(name) {
  return element("bdi", "", name); // isolated, so that a right-to-left name does not turn the sentence around
}

function avatar(name) {
  let hash = 2166136261; // FNV-1a: names that differ little get colours that differ much
  for (const character of name) hash = Math.imul(hash ^ character.codePointAt(0), 16777619);
  const made = element("span", "avatar", ([...name][0] || "?").toUpperCase());
  made.style.setProperty("--hue", (hash >>> 0) % 360);
  made.setAttribute("aria-hidden", "true");
  return made;
}

function clock(seconds) {
  const moment = new Date(seconds * 1000);
  const made = element("time", "", moment.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  made.dateTime = moment.toISOString();
  made.title = moment.toLocaleString();
  return made;
}

// --- the log

function atBottom() {
  return log.scrollHeight - log.scrollTop - log.clientHeight < 48;
}

function toBottom() {
  log.scrollTop = log.scrollHeight;
  find("newer").hidden = true;
}

function append(entry, follow) {
  find("empty")?.remove();
  const stay = !follow && !atBottom();
  log.append(entry);
  while (log.childElementCount > LONGEST_LOG) log.firstElementChild.remove();
  if (stay) find("newer").hidden = false;
  else toBottom();
}

function notice(className, ...parts) {
  const entry = element("p", `notice ${className}`);
  entry.append(...parts);
  last = null;
  append(entry, false);
}

function showMessage(event) {
  const mine = event.name === me;
  const more = last !== null && last.name === event.name && event.time - last.time < SAME_BREATH;
  const entry = element("article", `message${mine ? " mine" : ""}${more ? " more" : ""}`);
  const bubble = element("div", "bubble");
  const said = element("p", "", event.text);
  const from = element("span", mine ? "from unseen" : "from");
  said.dir = "auto";
  from.append(mine ? "You" : nameOf(event.name));
  bubble.append(said, clock(event.time));
  if (!mine) entry.append(avatar(event.name));
  entry.append(from, bubble);
  if (more) last.entry.classList.add("followed");
  last = { name: event.name, time: event.time, entry };
  append(entry, mine);
  if (mine) undelivered.shift();
  else if (document.hidden) document.title = `(${++unread}) ${pageTitle}`;
}

// --- the people

function addPerson(name) {
  const entry = element("li", name === me ? "mine" : "");
  entry.append(avatar(name), nameOf(name));
  entry.dataset.name = name;
  entry.title = name;
  find("people").append(entry);
  countPeople();
}

function removePerson(name) {
  for (const entry of find("people").children) if (entry.dataset.name === name) entry.remove();
  countPeople();
}

function countPeople() {
  find("count").textContent = find("people").childElementCount;
}

// --- the connection

function setState(state, label) {
  document.body.dataset.state = state;
  find("state").textContent = label;
}

function problem(what) {
  find("problem").textContent = what;
}

const receivers = {
  welcome(event) {
    attempts = 0;
    me = event.name;
    limit = event.limit;
    find("me").textContent = me;
    find("people").replaceChildren();
    event.people.forEach(addPerson);
    setState("open", "Connected");
    find("banner").hidden = true;
    problem("");
    if (wasLost) notice("link", "Back again");
    if (me !== wanted) notice("", "The name ", nameOf(wanted), " was taken: you are ", nameOf(me));
    find("spoken").textContent = wasLost ? "Back again" : "Connected";
    wasLost = false;
  },
  join(event) {
    addPerson(event.name);
    notice("", nameOf(event.name), " joined");
  },
  leave(event) {
    removePerson(event.name);
    notice("", nameOf(event.name), " left");
  },
  message: showMessage,
  error(event) {
    const refused = undelivered.shift();
    if (refused !== undefined) giveBack([refused]);
    problem(event.text);
  },
};

function connect() {
  clearTimeout(timer);
  const address = new URL("conn", location.href);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  address.searchParams.set("user", wanted);
  setState(wasLost ? "lost" : "connecting", wasLost ? "Reconnecting" : "Connecting");
  const opened = new WebSocket(address);
  socket = opened;
  opened.onmessage = (received) => {
    const event = JSON.parse(received.data);
    receivers[event.type]?.(event); // a type of a newer server is passed over
  };
  opened.onclose = () => {
    if (opened === socket) lost();
  };
}

function lost() {
  socket = null;
  if (document.body.dataset.state === "open") notice("link", "Connection lost");
  wasLost = true;
  setState("lost", "Not connected");
  if (undelivered.length) {
    giveBack(undelivered);
    problem("What you sent last may not have arrived; it is in the box again.");
    undelivered = [];
  }
  const ceiling = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** attempts++);
  const due = Date.now() + ceiling * (0.5 + Math.random() / 2); // jitter: a restarted server is not met by all at once
  find("banner").hidden = false;
  find("spoken").textContent = "Connection lost, trying again";
  countDown(due);
}

function countDown(due) {
  const left = due - Date.now();
  if (left <= 0) {
    find("banner-text").textContent = "Connection lost, trying again now";
    connect();
    return;
  }
  find("banner-text").textContent = `Connection lost, trying again in ${Math.ceil(left / 1000)} s`;
  timer = setTimeout(countDown, Math.min(left, 250), due);
}

function retryNow() {
  if (socket === null && wasLost) countDown(0);
}

// --- writing

function giveBack(texts) {
  text.value = [...texts, text.value].filter((part) => part.trim()).join("\n");
  fit();
}

function fit() {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + 2}px`;
}

function send() {
  const said = text.value;
  if (!said.trim()) return;
  const size = new TextEncoder().encode(said).length;
  if (size > limit) {
    problem(`This message is too long: ${size.toLocaleString()} of ${limit.toLocaleString()} bytes. Please shorten it.`);
  } else if (document.body.dataset.state !== "open") {
    problem("Not connected. Your message stays here until you can send it.");
  } else {
    socket.send(said);
    undelivered.push(said);
    text.value = "";
    problem("");
    fit();
  }
}

text.addEventListener("input", () => {
  problem("");
  fit();
});
text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
find("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
  text.focus();
});
find("retry").addEventListener("click", retryNow);
find("newer").addEventListener("click", toBottom);
log.addEventListener("scroll", () => {
  if (atBottom()) find("newer").hidden = true;
});
new ResizeObserver(() => {
  if (find("newer").hidden) toBottom(); // a phone's keyboard came up, or the box grew: the last message stays in sight
}).observe(log);
addEventListener("online", retryNow);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  unread = 0;
  document.title = pageTitle;
  retryNow();
});

connect();
