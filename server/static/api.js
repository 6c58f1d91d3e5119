// The server's routes, and the stream that reconnects by itself.

const LOGGED_OUT = 4401;

export class Refused extends Error {
  constructor(status, body) {
    super(body.detail || `the server answered ${status}`);
    this.status = status;
    this.field = body.field;
    this.problems = body.problems;
    this.errors = body.errors;
  }
}

export async function request(method, path, body) {
  const options = { method, headers: {} };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["content-type"] = "application/json";
  }
  const response = await fetch(path, options);
  return answer(response.status, await response.text());
}

export const get = (path) => request("GET", path);
export const post = (path, body) => request("POST", path, body);

// What this client may do: {access: "full" or "read", logged_in}.
export const session = get("/session").catch(() => ({ access: "full", logged_in: false }));
export const mayChange = session.then((one) => one.access !== "read");

export const toLogin = () => location.assign(`/login${location.hash}`);

function answer(status, text) {
  if (status === 401) toLogin();
  let body = {};
  try { body = text ? JSON.parse(text) : {}; } catch { body = { detail: text }; }
  if (status >= 400) throw new Refused(status, body);
  return body;
}

// The text of an artifact; with `last`, only so many bytes from its end. Null where there is none.
export async function artifact(runId, name, last) {
  const headers = last ? { range: `bytes=-${last}` } : {};
  // Past the browser's cache: it would answer a range from what the file once was.
  const response = await fetch(`/runs/${runId}/artifacts/${name}`, { headers, cache: "no-store" });
  return response.ok ? response.text() : null;
}

export function upload(name, file, onProgress) {
  return new Promise((resolve, reject) => {
    const call = new XMLHttpRequest(); // fetch does not report how much it has sent
    call.open("PUT", `/datasets/${encodeURIComponent(name)}`);
    call.upload.onprogress = (event) => onProgress(event.loaded, event.total);
    call.onload = () => {
      try { resolve(answer(call.status, call.responseText)); } catch (error) { reject(error); }
    };
    call.onerror = () => reject(new Error("the upload broke off; is the server running?"));
    call.send(file);
  });
}

// All runs' events, each once and in order; `onState` hears live, connecting or offline.
export class Stream {
  constructor(after, onEvent, onState) {
    Object.assign(this, { after, onEvent, onState, wait: 500 });
    this.open();
    addEventListener("online", () => this.hurry());
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.hurry(); });
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}/ws?after=${this.after}`);
    this.socket.onopen = () => { this.wait = 500; this.onState("live"); };
    this.socket.onmessage = (message) => {
      const event = JSON.parse(message.data);
      this.after = event.event_id;
      this.onEvent(event);
    };
    this.socket.onclose = (closed) => {
      if (closed.code === LOGGED_OUT) { toLogin(); return; }
      this.onState(navigator.onLine ? "connecting" : "offline");
      this.timer = setTimeout(() => this.open(), this.wait);
      this.wait = Math.min(this.wait * 2, 15000);
    };
  }

  hurry() {
    if (this.socket.readyState === WebSocket.CLOSED) {
      clearTimeout(this.timer);
      this.open();
    }
  }
}
