// Topics of a gows server, for browsers: the client of the subprotocol gows.v1. No dependencies.
//   const gows = new Gows("/live"); // a path of this host, or a ws:// or wss:// URL
//   const news = gows.subscribe("news.*", (data, topic) => console.log(topic, data), { lost: reload });
//   gows.publish("news.local", { headline: "rain" }).catch((error) => console.log(error.code, error.message));
// It comes back by itself when the connection is lost, after a random and growing time, and subscribes again. Of topics
// that the server keeps it gets what it missed, each message once and in order; where that is not to be had, or nothing
// is kept, `lost` is called. Publishing that is not answered is rejected with the code "closed".
"use strict";
class GowsError extends Error { constructor(code, reason) { super(reason); this.code = code; } }
class Gows {
  static FIRST_DELAY = 500; // milliseconds: the range of the first delay; it doubles with each failure
  static LONGEST_DELAY = 30000;
  static RESTART_DELAY = [5000, 30000]; // after 1012 and 1013, as the registry of close codes asks for

  constructor(url, { onstate = () => {} } = {}) {
    const address = new URL(url, location.href);
    address.protocol = address.protocol.replace("http", "ws");
    Object.assign(this, { url: address.href, ended: false, onstate }); // told "open", "closed" and "ended"
    this._failures = this._number = 0;
    this._asked = new Map(); // by id: what waits for an answer
    this._topics = new Map(); // by pattern: its subscriptions
    this._positions = new Map(); // by topic: what was heard last
    this._rooms = new Map(); // by topic: who is there, for those who want to know
    this._waiting = new Map(); // subscriptions that were made while there was no connection
    addEventListener("online", () => this.retry());
    this._connect();
  }

  get open() { return this._socket.readyState === WebSocket.OPEN; }
  // `callback(data, topic, message)` for each message; data is what JSON carries, or a Uint8Array. `history`: how many
  // kept messages come first. `lost(topic)`: messages may have been missed. `present(members)`: who is in the topic,
  // { id, info } of each, now and whenever that changes. Returns { ready, end() }; `ready` is a promise.
  subscribe(pattern, callback, { lost = () => {}, present = null, history } = {}) {
    const subscription = { callback, lost, present, history, end: () => this._unsubscribe(pattern, subscription) };
    const others = this._topics.get(pattern);
    if (others) {
      others.push(subscription);
      subscription.ready = others[0].ready;
      if (present && this.open) this._census(pattern);
    } else {
      this._topics.set(pattern, [subscription]);
      subscription.ready = this.open ? this._request(pattern, false)
        : new Promise((resolve, reject) => this._waiting.set(pattern, { resolve, reject }));
    }
    subscription.ready.catch(() => {}); // who wants to know asks for it
    return subscription;
  }
  publish(topic, data, { key, ttl } = {}) { return this._ask({ type: "publish", topic, data, key, ttl }); }
  retry() { // at once, if it waits for the next attempt
    const waits = this._timer;
    this._timer = clearTimeout(waits);
    if (waits) this._connect();
  }
  close() {
    this.ended = true;
    this._timer = clearTimeout(this._timer);
    this._socket.close(1000);
    this._lose();
    this.onstate("ended");
  }

  _connect() {
    const socket = (this._socket = new WebSocket(this.url, "gows.v1"));
    socket.onopen = () => {
      this._failures = 0;
      for (const pattern of this._topics.keys()) {
        const waiting = this._waiting.get(pattern);
        this._request(pattern, !waiting).then(waiting?.resolve, waiting?.reject ?? (() => {}));
      }
      this._waiting.clear();
      this.onstate("open");
    };
    socket.onmessage = (event) => this._hear(JSON.parse(event.data));
    socket.onclose = (event) => {
      if (this.ended || socket !== this._socket) return;
      this._lose();
      const range = Math.min(Gows.LONGEST_DELAY, Gows.FIRST_DELAY * 2 ** this._failures++);
      const [low, high] = event.code === 1012 || event.code === 1013 ? Gows.RESTART_DELAY : [0, range];
      this._timer = setTimeout(() => this.retry(), low + Math.random() * (high - low));
      this.onstate("closed");
    };
  }
  _lose() {
    for (const { reject } of this._asked.values()) reject(new GowsError("closed", "the connection was lost"));
    for (const map of [this._asked, this._rooms]) map.clear();
  }
  _ask(request) {
    if (!this.open) return Promise.reject(new GowsError("closed", "there is no connection"));
    const id = ++this._number;
    this._socket.send(JSON.stringify({ ...request, id }));
    return new Promise((resolve, reject) => this._asked.set(id, { resolve, reject }));
  }
  async _request(topic, again) {
    const [{ history }] = this._topics.get(topic);
    const answer = await this._ask({ type: "subscribe", topic, history, ...this._positions.get(topic) });
    const { epoch, offset, recovered } = answer;
    if (epoch && !recovered) this._positions.set(topic, { epoch, offset });
    if (again && !recovered) this._tell(topic, "lost", topic);
    if (this._topics.get(topic)?.some(({ present }) => present)) this._census(topic);
    return answer;
  }
  async _census(topic) { // once after each connection; from then on joins and leaves keep it right
    const answer = await this._ask({ type: "presence", topic }).catch(() => null);
    if (answer) this._rooms.set(topic, new Map(answer.members.map(({ id, info }) => [id, info])));
    this._tell(topic, "present", [...(answer?.members ?? [])]);
  }
  _tell(pattern, what, ...args) {
    for (const subscription of [...(this._topics.get(pattern) ?? [])]) {
      try { subscription[what]?.(...args); } catch (error) { console.error(error); }
    }
  }

  _hear(message) {
    const { type, id, topic, epoch, offset } = message;
    const room = this._rooms.get(topic);
    if (type === "join" || type === "leave") {
      if (type === "join") room?.set(id, message.info); else room?.delete(id);
      if (room) this._tell(topic, "present", [...room].map(([id, info]) => ({ id, info })));
    } else if (type === "message" || type === "lost") {
      if (epoch && this._topics.has(topic)) {
        const last = this._positions.get(topic);
        if (type === "message" && last?.epoch === epoch && offset <= last.offset) return;
        this._positions.set(topic, { epoch, offset });
      }
      const data = "base64" in message ? Uint8Array.from(atob(message.base64), (c) => c.charCodeAt(0)) : message.data;
      for (const pattern of [...this._topics.keys()].filter((pattern) => Gows.matches(pattern, topic))) {
        this._tell(pattern, ...(type === "lost" ? ["lost", topic] : ["callback", data, topic, message]));
      }
    } else {
      if (type === "error") this._asked.get(id)?.reject(new GowsError(message.code, message.reason));
      else this._asked.get(id)?.resolve(message);
      this._asked.delete(id);
    }
  }

  _unsubscribe(pattern, subscription) {
    const left = (this._topics.get(pattern) ?? []).filter((other) => other !== subscription);
    if (left.length) return void this._topics.set(pattern, left);
    if (this._topics.delete(pattern) && this.open) this._ask({ type: "unsubscribe", topic: pattern }).catch(() => {});
    for (const map of [this._positions, this._rooms, this._waiting]) map.delete(pattern);
  }

  // Whether a pattern stands for a topic: "*" for one word, ">" at the end for one or more.
  static matches(pattern, topic) {
    const [words, wanted] = [topic.split("."), pattern.split(".")];
    const rest = wanted[wanted.length - 1] === ">" ? wanted.pop() : "";
    if (rest ? words.length <= wanted.length : words.length !== wanted.length) return false;
    return wanted.every((word, at) => word === "*" || word === words[at]);
  }
}
