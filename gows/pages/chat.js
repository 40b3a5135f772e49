// The chat page: a room is a topic (gows.js), and who is in it is its presence. We publish {"text": ...} and a token; the
// others get that with our name and the time, which the server adds. What we said ourselves is shown when the server has
// it. Everything that others wrote reaches the page through textContent only.

const HISTORY = 50; // messages that a newcomer is shown
const LONGEST_LOG = 1000; // entries kept on the page
const SAME_BREATH = 300; // seconds within which messages of one person stand together

const find = (id) => document.getElementById(id);
const log = find("log");
const text = find("text");
const pageTitle = document.title;
const { user, room, topic, secret, person } = document.body.dataset; // by the secret the server knows us, and says so as `person`
const limit = Number(document.body.dataset.limit); // bytes in a message
const people = new Map(); // by id: their entries in the list
const own = new Map(); // by token: what we said, and whether it is "sent", "said", or "back" in the box

let me = user;
let myId = null; // of this connection
let fresh = true; // nobody has told us yet who is here, in this connection
let wasLost = false;
let unread = 0;
let last = null; // the message that stands at the end of the log

function token() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

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

function showMessage(said, mine) {
  const more = last !== null && last.mine === mine && last.name === said.name && said.time - last.time < SAME_BREATH;
  const entry = element("article", `message${mine ? " mine" : ""}${more ? " more" : ""}`);
  const bubble = element("div", "bubble");
  const words = element("p", "", said.text);
  const from = element("span", mine ? "from unseen" : "from");
  words.dir = "auto";
  from.append(mine ? "You" : nameOf(said.name));
  bubble.append(words, clock(said.time));
  if (!mine) entry.append(avatar(said.name));
  entry.append(from, bubble);
  if (more) last.entry.classList.add("followed");
  last = { mine, name: said.name, time: said.time, entry };
  append(entry, mine);
  if (!mine && document.hidden) document.title = `(${++unread}) ${pageTitle}`;
}

function heard(said) {
  const ours = said.by === person ? own.get(said.token) : undefined; // others may send our tokens, too
  if (ours === undefined) showMessage(said, false);
  else arrived(ours, said); // after a loss of the connection we hear what we said ourselves, too
}

function arrived(ours, said) {
  if (ours.state === "back" && text.value === ours.text) {
    text.value = "";
    problem("");
    fit();
  }
  if (ours.state !== "said") showMessage(said, true);
  ours.state = "said";
}

// --- the people

function present(members) {
  const ours = members.filter(({ info }) => info.person === person).pop();
  if (ours === undefined || (fresh && ours.id === myId)) return; // this is of a connection that was lost
  if (fresh) begin(ours);
  const here = new Set(members.map(({ id }) => id));
  for (const [id, entry] of people) if (!here.has(id)) removePerson(id, entry);
  for (const { id, info } of members) if (!people.has(id)) addPerson(id, info);
  find("count").textContent = people.size;
  fresh = false;
}

function addPerson(id, info) {
  const entry = element("li", info.person === person ? "mine" : "");
  entry.append(avatar(info.name), nameOf(info.name));
  entry.title = info.name;
  find("people").append(entry);
  people.set(id, entry);
  if (!fresh) notice("", nameOf(info.name), " joined");
}

function removePerson(id, entry) {
  entry.remove();
  people.delete(id);
  if (!fresh && !entry.classList.contains("mine")) notice("", nameOf(entry.title), " left");
}

// --- the connection

function setState(state, label) {
  document.body.dataset.state = state;
  find("state").textContent = label;
}

function problem(what) {
  find("problem").textContent = what;
}

function begin({ id, info }) {
  if (info.name !== me && info.name !== user) notice("", "The name ", nameOf(user), " was taken: you are ", nameOf(info.name));
  me = info.name;
  myId = id;
  find("me").textContent = me;
  setState("open", "Connected");
  find("banner").hidden = true;
  find("spoken").textContent = wasLost ? "Back again" : "Connected";
  wasLost = false;
  problem("");
}

function opened() {
  fresh = true;
  if (wasLost) notice("link", "Back again");
}

function closed(forGood) {
  if (document.body.dataset.state === "open") {
    wasLost = true;
    notice("link", "Connection lost");
  }
  setState("lost", "Not connected");
  const words = forGood ? "The server has ended the connection; reload the page to come back" : "Connection lost, trying again";
  find("banner").hidden = false;
  find("banner").querySelector(".spinner").hidden = forGood;
  find("banner").querySelector("p").textContent = find("spoken").textContent = words;
  const unanswered = [...own.values()].filter(({ state }) => state === "sent");
  if (unanswered.length === 0) return;
  giveBack(unanswered);
  problem("What you sent last may not have arrived; it is in the box again.");
}

// --- writing

function giveBack(messages) {
  text.value = [...messages.map((message) => message.text), text.value].filter((part) => part.trim()).join("\n");
  for (const message of messages) message.state = "back";
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
    publish(said);
    text.value = "";
    problem("");
    fit();
  }
}

function publish(said) {
  const ours = { text: said, state: "sent" };
  const name = token();
  own.set(name, ours);
  gows.publish(topic, { text: said, token: name }).then(
    () => arrived(ours, { name: me, text: said, time: Date.now() / 1000 }),
    (error) => {
      if (ours.state !== "sent") return; // it was given back when the connection was lost
      giveBack([ours]);
      problem(error.message);
    },
  );
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
find("newer").addEventListener("click", toBottom);
log.addEventListener("scroll", () => {
  if (atBottom()) find("newer").hidden = true;
});
new ResizeObserver(() => {
  if (find("newer").hidden) toBottom(); // a phone's keyboard came up, or the box grew: the last message stays in sight
}).observe(log);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  unread = 0;
  document.title = pageTitle;
});

const address = new URL("conn", location.href);
address.search = new URLSearchParams({ user, room, secret });
const gows = new Gows(address, { onstate: (state) => (state === "open" ? opened() : closed(state === "ended")) });
const missing = () => notice("link", "Some messages may be missing");
gows.subscribe(topic, heard, { lost: missing, present, history: HISTORY }).ready.catch((error) => {
  if (error.code !== "closed") problem(error.message);
});
