// Topics of a gows server, for browsers: the client of the subprotocol gows.v1. No dependencies.
//
//   const gows = new Gows("/live");                        // a path of this host, or a ws:// or wss:// URL
//   const news = gows.subscribe("news.*", (data, topic) => console.log(topic, data), (topic) => console.log("a gap"));
//   news.ready.then(() => console.log("subscribed"), (error) => console.log(error.code, error.message));
//   gows.publish("news.local", { headline: "rain" }).catch((error) => console.log(error.code, error.message));
//   news.end();  gows.close();
//
// It comes back by itself when the connection is lost, after a random and growing time, and subscribes again. Of topics
// that the server keeps it gets what it missed, each message once and in order; where that is not to be had, or nothing
// is kept, the third function is called. Publishing that is not answered is rejected with the code "closed".
"use strict";

class GowsError extends Error {
  constructor(code, reason) { super(reason); this.code = code; }
}

class Gows {
  static FIRST_DELAY = 500; // milliseconds: the range of the first delay; it doubles with each failure
  static LONGEST_DELAY = 30000;
  static RESTART_DELAY = [5000, 30000]; // after 1012 and 1013, as the registry of close codes asks for

  constructor(url, { onstate = () => {} } = {}) {
    const address = new URL(url, location.href);
    address.protocol = address.protocol.replace("http", "ws");
    this.url = address.href;
    this.onstate = onstate; // called with "open", "closed" (and comes back), "ended"
    this.ended = false;
    this._failures = 0;
    this._number = 0;
    this._asked = new Map(); // by id: what waits for an answer
    this._topics = new Map(); // by pattern: its subscriptions
    this._positions = new Map(); // by topic: what was heard last
    this._waiting = new Map(); // subscriptions that were made while there was no connection
    this._connect();
  }

  get open() { return this._socket.readyState === WebSocket.OPEN; }

  // `callback(data, topic)` for each message; data is what JSON carries, or a Uint8Array.
  // `lost(pattern)` after a loss of the connection, when messages may have been missed.
  subscribe(pattern, callback, lost = () => {}) {
    const subscription = { callback, lost, ready: null, end: () => this._unsubscribe(pattern, subscription) };
    const others = this._topics.get(pattern);
    if (others) {
      others.push(subscription);
      subscription.ready = others[0].ready;
    } else {
      this._topics.set(pattern, [subscription]);
      subscription.ready = this.open ? this._request(pattern)
        : new Promise((resolve, reject) => this._waiting.set(pattern, { resolve, reject }));
    }
    subscription.ready.catch(() => {}); // who wants to know asks for it
    return subscription;
  }

  publish(topic, data, { key, ttl } = {}) {
    return this._ask({ type: "publish", topic, data, key, ttl });
  }

  close() {
    this.ended = true;
    clearTimeout(this._timer);
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
        this._waiting.delete(pattern);
        this._request(pattern, !waiting).then(waiting?.resolve, waiting?.reject ?? (() => {}));
      }
      this.onstate("open");
    };
    socket.onmessage = (event) => this._hear(JSON.parse(event.data));
    socket.onclose = (event) => {
      if (this.ended || socket !== this._socket) return;
      this._lose();
      this._timer = setTimeout(() => this._connect(), this._delay(event.code));
      this.onstate("closed");
    };
  }

  _delay(code) {
    const range = Math.min(Gows.LONGEST_DELAY, Gows.FIRST_DELAY * 2 ** this._failures++);
    const [low, high] = code === 1012 || code === 1013 ? Gows.RESTART_DELAY : [0, range];
    return low + Math.random() * (high - low);
  }

  _ask(request) {
    if (!this.open) return Promise.reject(new GowsError("closed", "there is no connection"));
    const id = ++this._number;
    this._socket.send(JSON.stringify({ ...request, id }));
    return new Promise((resolve, reject) => this._asked.set(id, { resolve, reject }));
  }

  async _request(pattern, again = false) {
    const answer = await this._ask({ type: "subscribe", topic: pattern, ...this._positions.get(pattern) });
    if ("epoch" in answer && !answer.recovered) this._positions.set(pattern, { epoch: answer.epoch, offset: answer.offset });
    if (again && !answer.recovered) for (const { lost } of this._topics.get(pattern) ?? []) lost(pattern);
    return answer;
  }

  _lose() {
    for (const { reject } of this._asked.values()) reject(new GowsError("closed", "the connection was lost"));
    this._asked.clear();
  }

  _hear(message) {
    if (message.type !== "message") {
      const asked = this._asked.get(message.id);
      this._asked.delete(message.id);
      if (message.type === "error") asked?.reject(new GowsError(message.code, message.reason));
      else asked?.resolve(message);
      return;
    }
    if ("offset" in message && this._topics.has(message.topic)) {
      const last = this._positions.get(message.topic);
      if (last?.epoch === message.epoch && message.offset <= last.offset) return;
      this._positions.set(message.topic, { epoch: message.epoch, offset: message.offset });
    }
    const data = "base64" in message ? Uint8Array.from(atob(message.base64), (c) => c.charCodeAt(0)) : message.data;
    for (const [pattern, subscriptions] of [...this._topics]) {
      if (!Gows.matches(pattern, message.topic)) continue;
      for (const { callback } of [...subscriptions]) {
        try { callback(data, message.topic); } catch (error) { console.error(error); }
      }
    }
  }

  _unsubscribe(pattern, subscription) {
    const left = (this._topics.get(pattern) ?? []).filter((other) => other !== subscription);
    if (left.length) this._topics.set(pattern, left);
    else if (this._topics.delete(pattern) && this.open) this._ask({ type: "unsubscribe", topic: pattern }).catch(() => {});
    if (!left.length) this._positions.delete(pattern);
  }

  // Whether a pattern stands for a topic: "*" for one word, ">" at the end for one or more.
  static matches(pattern, topic) {
    const [words, wanted] = [topic.split("."), pattern.split(".")];
    const rest = wanted[wanted.length - 1] === ">" ? wanted.pop() : "";
    if (rest ? words.length <= wanted.length : words.length !== wanted.length) return false;
    return wanted.every((word, at) => word === "*" || word === words[at]);
  }
}
