// Topics of a gows server, for browsers: the client of the subprotocol gows.v1. No dependencies.
//   const gows = new Gows("/live"); // a path of this host, a ws:// or wss:// URL, or a function that returns either
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
  static ASK_AGAIN = [1000, 5000]; // for a subscription that stood, after a refusal of now, up to eight times as much
  static TEMPORARY = ["unavailable", "too_slow", "too_many"];
  static SILENCE = 15000; // after which the server is pinged: a page sees no pings, so a loss may be silent
  static PATIENCE = 10000; // for anything to come after that; a connection has twice the time to open
  static LOOK = 5000;
  static MOST_HEARD = 4096; // topics heard by patterns of which the last position is remembered

  // `url` may be a function, called for each attempt; it may return a promise. `onstate(state, { code, reason })`:
  // "open", "closed" (and it will come back), "ended" (by `close`, or since the server's close code is final).
  constructor(url, { onstate = () => {} } = {}) {
    Object.assign(this, { url: typeof url === "function" ? url : Gows.address(url), ended: false, onstate });
    this._failures = this._number = 0;
    this._asked = new Map(); // by id: what is to be done with an answer
    this._cursors = new Map(); // by what is subscribed to: see GowsCursor
    this._heard = new Map(); // by topic: the last position heard by a pattern
    this._rooms = new Map(); // by topic: who is there, for those who want to know
    this._online = () => (this.open ? this._look(true) : this.retry());
    globalThis.addEventListener?.("online", this._online);
    this._connect();
  }

  get open() { return this._socket?.readyState === WebSocket.OPEN; }
  // `callback(data, topic, message)` for each message; data is what JSON carries, or a Uint8Array. `history`: how many
  // kept messages come first. `lost(topic)`: messages may have been missed. `present(members)`: who is in the topic,
  // { id, info } of each, now and whenever that changes. `refused(error)`: a subscription that stood is over, for the
  // server refused it later, or the client has ended by itself. Returns { ready, end() }; `ready` is a promise.
  subscribe(pattern, callback, { lost, present, history, refused } = {}) {
    const subscription = { callback, lost, present, history, refused };
    subscription.end = () => this._unsubscribe(pattern, subscription);
    subscription.ready = new Promise((resolve, reject) => Object.assign(subscription, { _resolve: resolve, _reject: reject }));
    subscription.ready.catch(() => {}); // who wants to know asks for it
    if (this.ended) {
      subscription._reject(new GowsError("closed", "the client has ended"));
      return subscription;
    }
    if (!this._cursors.has(pattern)) this._cursors.set(pattern, []);
    const cursors = this._cursors.get(pattern);
    if (cursors.length && (history == null || cursors[0].isPattern)) {
      cursors[0].subscriptions.push(subscription);
      if (cursors[0].began) subscription._resolve(cursors[0].answer);
      if (cursors[0].began && present && this.open) this._census(pattern);
    } else {
      cursors.push(new GowsCursor(pattern, subscription));
      this._request(cursors.at(-1));
    }
    return subscription;
  }
  publish(topic, data, { key, ttl } = {}) {
    return new Promise((resolve, reject) => this._ask({ type: "publish", topic, data, key, ttl }, resolve, reject));
  }
  retry() { // at once, if it waits for the next attempt
    const waits = this._timer;
    this._timer = clearTimeout(waits);
    if (waits) this._connect();
  }
  close() { if (!this.ended) this._end({ code: 1000, reason: "" }, new GowsError("closed", "the client was closed"), true); }

  // ---------------------------------------------------------------- the connection

  async _connect() {
    const attempt = (this._attempt = {});
    let url = this.url;
    this._since = Date.now();
    if (typeof url === "function") {
      try { url = Gows.address(await url()); } catch (error) {
        console.error(error);
        if (attempt === this._attempt && !this.ended) this._down({ code: 1006, reason: `no URL: ${error}` });
        return;
      }
      if (attempt !== this._attempt || this.ended) return;
    }
    const socket = (this._socket = new WebSocket(url, "gows.v1"));
    this._since = Date.now(); // since when nothing came
    this._pinged = 0;
    this._pulse = setInterval(() => this._look(), Gows.LOOK);
    socket.onopen = () => {
      if (socket !== this._socket) return;
      this._failures = 0;
      this._since = Date.now();
      for (const cursor of [...this._cursors.values()].flat()) this._request(cursor);
      this.onstate("open", {});
    };
    socket.onmessage = (event) => {
      if (socket !== this._socket) return;
      this._since = Date.now();
      this._pinged = 0;
      this._hear(JSON.parse(event.data));
    };
    socket.onclose = (event) => { if (socket === this._socket) this._down(event); };
  }
  _look(now = false) { // is the server still there?
    const silent = Date.now() - this._since;
    if (!this.open ? silent >= 2 * Gows.PATIENCE : this._pinged && Date.now() - this._pinged >= Gows.PATIENCE) {
      const socket = this._socket;
      this._down({ code: 1006, reason: "nothing comes from the server" });
      socket.close();
    } else if (this.open && !this._pinged && (now || silent >= Gows.SILENCE)) {
      this._pinged = Date.now();
      this._ask({ type: "ping" });
    }
  }
  _down({ code, reason }) {
    clearInterval(this._pulse);
    this._socket = null;
    this._lose(new GowsError("closed", "the connection was lost"));
    if (Gows.isFinal(code, reason)) return void this._end({ code, reason }, new GowsError("closed", `the server closed with ${code} ${reason}`));
    const range = Math.min(Gows.LONGEST_DELAY, Gows.FIRST_DELAY * 2 ** this._failures++);
    const bounds = code === 1012 || code === 1013 ? Gows.RESTART_DELAY : [0, range];
    this._timer = setTimeout(() => this.retry(), Gows.between(...bounds));
    this.onstate("closed", { code, reason });
  }
  _lose(error) {
    const asked = [...this._asked.values()];
    for (const map of [this._asked, this._rooms]) map.clear();
    for (const { reject } of asked) reject(error);
  }
  _end(why, error, asked = false) {
    this.ended = true;
    this._timer = clearTimeout(this._timer);
    clearInterval(this._pulse);
    globalThis.removeEventListener?.("online", this._online);
    this._socket?.close(1000);
    this._socket = null;
    const cursors = [...this._cursors.values()].flat();
    this._cursors.clear();
    this._lose(error);
    for (const cursor of cursors) this._over(cursor, error, !asked);
    this.onstate("ended", why);
  }
  _ask(request, resolve = () => {}, reject = () => {}) {
    if (!this.open) return void reject(new GowsError("closed", this.ended ? "the client has ended" : "there is no connection"));
    const id = ++this._number;
    this._socket.send(JSON.stringify({ ...request, id }));
    this._asked.set(id, { resolve, reject });
  }

  // ---------------------------------------------------------------- subscriptions

  _request(cursor) { // from the position on that was heard last; after a loss, a history is newer than all that was heard
    if (!this.open) return;
    const wanted = Math.max(...cursor.subscriptions.map((subscription) => subscription.history ?? 0)) || undefined;
    const history = cursor.began && !cursor.position && !cursor.isPattern ? 10000 : wanted; // nothing was kept: all is news
    Object.assign(cursor, { asking: true, askedFrom: cursor.known, askedAt: Date.now() });
    const request = { type: "subscribe", topic: cursor.name, history, ...cursor.known };
    this._ask(request, (answer) => this._subscribed(cursor, answer), (error) => this._notSubscribed(cursor, error));
  }
  _recover(cursor) { // something is missing; it is not asked for at full speed where the answers do not help
    if (cursor.makesNoProgress()) this._askLater(cursor, 1); else this._request(cursor);
  }
  _askLater(cursor, factor) {
    const socket = this._socket;
    cursor.asking = true;
    setTimeout(() => {
      if (socket === this._socket && this._cursors.get(cursor.name)?.includes(cursor)) this._request(cursor);
    }, factor * Gows.between(...Gows.ASK_AGAIN));
  }
  _subscribed(cursor, answer) {
    if (!this._cursors.get(cursor.name)?.includes(cursor)) return;
    const lost = cursor.answered(answer);
    const subscriptions = [...cursor.subscriptions];
    if (subscriptions.some(({ present }) => present)) this._census(cursor.name);
    this._join(cursor.name);
    for (const subscription of subscriptions) {
      subscription._resolve(answer);
      if (lost) this._call(subscription, "lost", cursor.name);
    }
  }
  _notSubscribed(cursor, error) {
    const cursors = this._cursors.get(cursor.name) ?? [];
    cursor.asking = false;
    if (!cursors.includes(cursor) || error.code === "closed") return; // it is asked for with the next connection
    if (cursor.began && Gows.TEMPORARY.includes(error.code)) return void this._askLater(cursor, 2 ** Math.min(cursor.refusals++, 3));
    cursors.splice(cursors.indexOf(cursor), 1);
    if (!cursors.length) this._forget(cursor.name);
    this._over(cursor, error);
  }
  _over(cursor, error, told = true) {
    for (const subscription of cursor.subscriptions) {
      subscription._reject(error); // of one that stood it is settled
      if (cursor.began && told) this._call(subscription, "refused", error);
    }
  }
  _unsubscribe(pattern, subscription) {
    const cursors = this._cursors.get(pattern) ?? [];
    for (const cursor of [...cursors]) {
      cursor.subscriptions = cursor.subscriptions.filter((other) => other !== subscription);
      if (!cursor.subscriptions.length) cursors.splice(cursors.indexOf(cursor), 1);
    }
    subscription._reject(new GowsError("closed", "the subscription was ended"));
    if (cursors.length || !this._cursors.has(pattern)) return;
    this._forget(pattern);
    this._ask({ type: "unsubscribe", topic: pattern });
  }
  _forget(pattern) {
    for (const map of [this._cursors, this._rooms]) map.delete(pattern);
    if (![...this._cursors.values()].some(([cursor]) => cursor.isPattern)) this._heard.clear();
  }
  _join(topic) { // those that have come to the same place go on together
    const [first, ...others] = this._cursors.get(topic);
    for (const cursor of others.filter((other) => first.joins(other))) {
      first.subscriptions.push(...cursor.subscriptions);
      this._cursors.get(topic).splice(this._cursors.get(topic).indexOf(cursor), 1);
    }
  }
  _census(topic) { // once after each connection; from then on joins and leaves keep it right
    const show = (members) => this._tell(topic, "present", members);
    this._ask({ type: "presence", topic }, ({ members }) => {
      this._rooms.set(topic, new Map(members.map(({ id, info }) => [id, info])));
      show([...members]);
    }, () => show([]));
  }
  _call(subscription, what, ...args) {
    try { subscription[what]?.(...args); } catch (error) { console.error(error); }
  }
  _tell(pattern, what, ...args) {
    for (const cursor of [...(this._cursors.get(pattern) ?? [])]) {
      for (const subscription of [...cursor.subscriptions]) this._call(subscription, what, ...args);
    }
  }

  // ---------------------------------------------------------------- what the server says

  _hear(message) {
    const { type, id, topic, epoch, offset } = message;
    const position = epoch === undefined ? null : { epoch, offset };
    const cursors = this._cursors.get(topic) ?? [];
    const room = this._rooms.get(topic);
    if (type === "message") {
      const wanted = this._isNews(topic, position, cursors) ? this._patterns(topic) : [];
      for (const cursor of cursors) {
        const take = cursor.take(position);
        if (take === "deliver") wanted.push(cursor);
        else if (take === "jump") this._recover(cursor);
      }
      const heard = wanted.flatMap(({ subscriptions }) => subscriptions);
      if (cursors.length > 1) this._join(topic);
      const data = "base64" in message ? Uint8Array.from(atob(message.base64), (c) => c.charCodeAt(0)) : message.data;
      for (const subscription of heard) this._call(subscription, "callback", data, topic, message);
    } else if (type === "position") { // nothing is missing up to there: it was our own, or has expired
      const last = this._heard.get(topic);
      if (last?.epoch === epoch && last.offset < offset) this._heard.set(topic, position);
      for (const cursor of cursors) if (cursor.move(position, message.after) === "jump") this._recover(cursor);
      if (cursors.length > 1) this._join(topic);
    } else if (type === "lost") {
      const standing = cursors.filter((cursor) => cursor.began && !cursor.asking);
      const wanted = this._patterns(topic);
      for (const cursor of standing) {
        if (cursor.misses(position)) this._recover(cursor);
        else if (!cursor.position) wanted.push(cursor);
      }
      if (room) this._census(topic); // it may be who joined, or left
      for (const subscription of wanted.flatMap(({ subscriptions }) => subscriptions)) this._call(subscription, "lost", topic);
    } else if (type === "join" || type === "leave") {
      if (type === "join") room?.set(id, message.info); else room?.delete(id);
      if (room) this._tell(topic, "present", [...room].map(([id, info]) => ({ id, info })));
    } else if (type === "unsubscribed" && message.code) { // unasked: a right was taken away
      for (const cursor of [...cursors]) this._notSubscribed(cursor, new GowsError(message.code, message.reason));
    } else {
      const asked = this._asked.get(id);
      this._asked.delete(id);
      if (type === "error") asked?.reject(new GowsError(message.code, message.reason)); else asked?.resolve(message);
    }
  }
  _patterns(topic) {
    const words = topic.split(".");
    return [...this._cursors.values()].map(([cursor]) => cursor).filter((cursor) => cursor.isPattern && cursor.matches(words));
  }
  _isNews(topic, position, cursors) { // for patterns: what is asked for by name comes to them, too
    if (!position || !this._patterns(topic).length) return true;
    const last = this._heard.get(topic) ?? cursors.find(({ began }) => began)?.position;
    if (last?.epoch === position.epoch && position.offset <= last.offset) return false;
    this._heard.delete(topic);
    this._heard.set(topic, position);
    if (this._heard.size > Gows.MOST_HEARD) this._heard.delete(this._heard.keys().next().value);
    return true;
  }

  static address(url) {
    const address = new URL(url, globalThis.location?.href);
    address.protocol = address.protocol.replace("http", "ws");
    return address.href;
  }
  static between(low, high) { return low + Math.random() * (high - low); }
  // Close codes after which there is no use in coming back: 1008, and those that say what 401, 403, 404 and so on say.
  // Not 1008 with "too many messages a second", which says what 429 does.
  static isFinal(code, reason = "") {
    if (code === 1008) return !reason.endsWith(" a second");
    return code >= 4400 && code < 4500 && ![4408, 4425, 4429].includes(code);
  }
  // Whether a pattern stands for a topic: "*" for one word, ">" at the end for one or more.
  static matches(pattern, topic) { return new GowsCursor(pattern).matches(topic.split(".")); }
}

// The subscriptions to one topic, or pattern, that stand at the same place, and how far they have come (docs/reference/topics.md).
// One that wants a history begins with a cursor of its own, and joins the others when it has come to where they are.
class GowsCursor {
  constructor(name, subscription) {
    const words = name.split(".");
    this.rest = words.at(-1) === ">" ? words.pop() : "";
    Object.assign(this, { name, words, subscriptions: [subscription], isPattern: this.rest !== "" || words.includes("*") });
    // The last position; up to which offset there was all to be had; a request is under way; the server has said yes.
    Object.assign(this, { position: null, before: null, until: 0, asking: false, began: false, answer: null });
    Object.assign(this, { refusals: 0, askedFrom: null, askedAt: 0 }); // in a row; where and when it was last asked for
  }
  static SOON = 5000;
  static same(one, other) { return one?.epoch === other?.epoch && one?.offset === other?.offset; }
  take(position) { // a message came
    if (!this.began) return "drop";
    if (!position) return "deliver";
    if (this.asking) return "drop"; // it comes again
    const last = this.last(position);
    const jump = position.epoch !== last.epoch || position.offset > Math.max(last.offset, this.until) + 1;
    if (!jump && position.offset <= last.offset) return "drop";
    if (jump) this.stand(last); else this.position = position;
    return jump ? "jump" : "deliver";
  }
  move(position, after = 0) { // nothing is missing from the offset `after` up to there
    if (!this.began || this.asking) return "drop";
    const last = this.last(position);
    const jump = last.epoch !== position.epoch || after > Math.max(last.offset, this.until);
    if (jump) this.stand(last); else if (!this.position || last.offset < position.offset) this.position = position;
    return jump ? "jump" : "drop";
  }
  misses(position) { // whether a `lost` tells what is not known, and can be asked for
    if (!position) return this.position !== null;
    const last = this.last(position);
    if (position.epoch === last.epoch && position.offset <= last.offset) return false;
    this.stand(last);
    return true;
  }
  // Where it stands: if no epoch is known, before the first message of the one that comes, or where it was in that epoch.
  last({ epoch }) { return this.position ?? (this.before?.epoch === epoch ? this.before : { epoch, offset: 0 }); }
  stand(last) { if (!this.before || this.before.epoch === last.epoch) this.position = last; } // else it is asked for from before
  get known() { return this.position ?? this.before; } // from where on it is asked for
  makesNoProgress() { // it was asked for from where it still is, a moment ago
    return GowsCursor.same(this.askedFrom, this.known) && Date.now() - this.askedAt < GowsCursor.SOON;
  }
  answered(answer) { // whether something is lost
    const { epoch, offset = 0, recovered } = answer;
    const lost = this.began && !recovered;
    Object.assign(this, { began: true, asking: false, refusals: 0, answer, until: offset });
    if (recovered) this.position = this.known;
    else if (!this.isPattern) {
      if (epoch === undefined) this.before = this.known; // another process may know it
      this.position = epoch === undefined ? null : { epoch, offset };
    }
    return lost;
  }
  joins({ began, asking, position, before }) {
    const same = GowsCursor.same(this.position, position) && (position || GowsCursor.same(this.before, before));
    return began && this.began && !asking && !this.asking && same;
  }
  matches(words) {
    const wanted = this.words;
    if (this.rest ? words.length <= wanted.length : words.length !== wanted.length) return false;
    return wanted.every((word, at) => word === "*" || word === words[at]);
  }
}
