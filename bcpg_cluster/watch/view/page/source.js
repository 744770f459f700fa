// Where the documents come from: the server that shows a run, or this file itself.

/** What went wrong in the words of the program: the problem, the rule, what to do. */
class RunError extends Error {
  constructor(problem, rule, remedy) {
    super(problem);
    Object.assign(this, { problem, rule, remedy });
  }
}

async function openSource() {
  const boot = JSON.parse(byId("boot").textContent);
  return boot.mode === "bundle" ? bundleSource(boot.left_out || []) : serverSource();
}

function serverSource() {
  return {
    mode: "server",
    leftOut: [],
    overview: () => ask("data/overview.json"),
    shard: (round, shard) => ask(`data/shard.json?round=${round}&shard=${shard}`),
    sample: (round, prompt, sample) =>
      ask(`data/sample.json?round=${round}&prompt=${encodeURIComponent(prompt)}&sample=${sample}`),
    after: (round, prompt, sample) =>
      ask(`data/after.json?round=${round}&prompt=${encodeURIComponent(prompt)}&sample=${sample}`),
    saveLabel: (line) =>
      ask("data/labels", { method: "POST", body: JSON.stringify(line), headers: { "Content-Type": "application/json" } }),
  };
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...options.headers, "X-View": "1" } });
  } catch {
    throw new RunError(
      "The server behind this page does not answer.",
      "The page reads the run from `bcpg-cluster view`, which must keep running.",
      "Start `bcpg-cluster view` again and open the link it prints.",
    );
  }
  if (answer.ok) return answer.json();
  const said = await answer.json().catch(() => ({}));
  throw new RunError(
    said.problem || `The server answered ${answer.status} to ${path}.`,
    said.rule || "The page needs this document to draw what you asked for.",
    said.remedy || "Reload the page; if it stays, look at the terminal that runs `bcpg-cluster view`.",
  );
}

async function bundleSource(leftOut) {
  const whole = await unpack(byId("data").textContent);
  const shards = new Map(whole.shards.map((shard) => [`${shard.round}/${shard.shard}`, shard]));
  return {
    mode: "bundle",
    leftOut,
    overview: async () => whole.overview,
    shard: async (round, shard) => shards.get(`${round}/${shard}`) || missing(`Shard ${shard} of round ${round}`, leftOut),
    sample: async (round, prompt, sample) =>
      (Object.hasOwn(whole.samples, `${round}/${prompt}/${sample}`) && whole.samples[`${round}/${prompt}/${sample}`]) ||
      missing(`Sample ${sample} of prompt ${prompt} in round ${round}`, leftOut),
    after: null,
    saveLabel: null,
  };
}

function missing(what, leftOut) {
  throw new RunError(
    `${what} is not in this file.`,
    leftOut.length ? leftOut.join(" ") : "This page is a copy of a run: it shows what was put into it. The link may be mistyped.",
    "Open the run itself with `bcpg-cluster view`, or pick another sample from the list.",
  );
}

/** Base64 of gzip of JSON. */
async function unpack(text) {
  if (typeof DecompressionStream === "undefined") {
    throw new RunError(
      "This browser cannot unpack the page's data.",
      "The data is compressed, and the browser lacks DecompressionStream (Chrome 80, Safari 16.4 and Firefox 113 have it).",
      "Open the file in a newer browser, or run `bcpg-cluster view` on the run directory and use its link.",
    );
  }
  try {
    const bytes = Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  } catch (error) {
    throw new RunError(
      "The data in this file is damaged.",
      `It must be base64 of gzip of JSON (${error.message || error}).`,
      "Make the file again with `bcpg-cluster view --bundle`, and send it without changing it.",
    );
  }
}
