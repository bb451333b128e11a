// Parses lines of a web server's access log (common and combined format) into JSON objects.

const LINE =
  /^(\S+) (\S+) (\S+) \[([^\]]+)\] "(?:(\S+) ([^"]*?)(?: (HTTP\/[\d.]+))?)" (\d{3}) (\d+|-)(?: "((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)")?/;
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

let errorsOnly = false;

export const lifecycle = {
  describe() {
    return {
      about: "Parses lines of a web server's access log into JSON.",
      columns: { values: true },
      parameters: [
        {
          name: "errors-only",
          kind: "boolean",
          required: false,
          default: { tag: "boolean", val: false },
          about: "Pass on only requests that failed: status 400 and above.",
        },
      ],
      stateSchema: 0,
    };
  },
  start(settings) {
    for (const { name, value } of settings) {
      if (name === "errors-only") errorsOnly = value.val;
    }
  },
};

// This engine has no TextDecoder. Bytes that are not UTF-8 are taken for Latin-1.
function decode(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 4096) {
    text += String.fromCharCode.apply(null, bytes.subarray(i, i + 4096));
  }
  try {
    return decodeURIComponent(escape(text));
  } catch {
    return text;
  }
}

function encode(text) {
  const latin = unescape(encodeURIComponent(text));
  return Uint8Array.from(latin, (char) => char.charCodeAt(0));
}

function parse(line) {
  const found = LINE.exec(line);
  if (!found) throw new Error("not a line of an access log");
  const [, client, , user, time, method, path, protocol, status, bytes, referer, agent] = found;
  const parts = /^(\d\d)\/(\w{3})\/(\d{4}):(\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)$/.exec(time);
  const month = parts ? MONTHS.indexOf(parts[2]) : -1;
  if (month < 0) throw new Error(`no time in [${time}]`);
  const [, day, , year, h, m, s, sign, zh, zm] = parts;
  const zone = (Number(zh) * 60 + Number(zm)) * 60000 * (sign === "-" ? -1 : 1);
  const at = Date.UTC(year, month, day, h, m, s) - zone;
  return {
    at,
    json: {
      time: new Date(at).toISOString(),
      client,
      user: user === "-" ? undefined : user,
      method,
      path,
      protocol,
      status: Number(status),
      bytes: bytes === "-" ? 0 : Number(bytes),
      referer: referer === "-" ? undefined : referer,
      agent: agent === "-" ? undefined : agent,
    },
  };
}

export const transforming = {
  transform({ batch }) {
    const sources = [];
    const timestamps = [];
    const values = [];
    const failures = [];
    let begin = 0;
    for (let index = 0; index < batch.count; index++) {
      const end = batch.values.ends[index];
      const line = decode(batch.values.bytes.subarray(begin, end));
      begin = end;
      try {
        const { at, json } = parse(line);
        if (errorsOnly && json.status < 400) continue;
        sources.push(index);
        timestamps.push(BigInt(at));
        values.push(encode(JSON.stringify(json)));
      } catch (error) {
        failures.push({ index, message: error.message });
      }
    }
    return {
      outputs: {
        sources: Uint32Array.from(sources),
        topics: new Uint32Array(),
        timestamps: BigInt64Array.from(timestamps),
        keys: undefined,
        values: column(values),
        headers: undefined,
      },
      failures,
      set: { keys: { ends: new Uint32Array(), bytes: new Uint8Array() }, times: new BigInt64Array() },
      cleared: { ends: new Uint32Array(), bytes: new Uint8Array() },
    };
  },
};

/// A nullable column of byte strings.
function column(strings) {
  const ends = new Uint32Array(strings.length);
  let total = 0;
  strings.forEach((string, i) => (ends[i] = total += string.length));
  const bytes = new Uint8Array(total);
  strings.forEach((string, i) => bytes.set(string, ends[i] - string.length));
  return { ends, bytes, nulls: new Uint8Array() };
}
