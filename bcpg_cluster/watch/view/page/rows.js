// The lines of the list of samples: loaded shard by shard, kept, filtered and sorted here.

const rows = { shards: new Map(), failed: new Map(), loading: new Map(), stale: new Set() };

const shardKey = (shard) => `${shard.round}/${shard.shard}`;

/** Load what is wanted, one shard after another; `tell(done, total)` after each. Ends early when `enough()` says so. */
async function loadShards(wanted, tell, enough = () => false) {
  let done = 0;
  for (const shard of wanted) {
    if (enough()) return;
    await loadShard(shard);
    done += 1;
    tell(done, wanted.length);
  }
}

/** A shard is loaded once, however many ask for it. */
async function loadShard(shard) {
  const key = shardKey(shard);
  if (rows.shards.has(key) && !rows.stale.has(key)) return;
  if (!rows.loading.has(key)) rows.loading.set(key, readShard(shard, key).finally(() => rows.loading.delete(key)));
  await rows.loading.get(key);
}

async function readShard(shard, key) {
  try {
    rows.shards.set(key, withQuestions(await run.source.shard(shard.round, shard.shard)));
    rows.failed.delete(key);
    rows.stale.delete(key);
  } catch (error) {
    rows.failed.set(key, error instanceof RunError ? error : new RunError(`Shard ${key} cannot be drawn.`, String(error), "Reload the page."));
  }
}

/** A shard's samples, each with its round, question and gold answer. */
function withQuestions(shard) {
  return shard.samples.map((sample) => {
    const [, question, gold] = shard.prompts[sample.index] || [sample.prompt_id, "", ""];
    const key = `${shard.round}/${sample.prompt_id}/${sample.sample}`;
    return Object.assign(sample, { round: shard.round, question, gold, key }); // in place: a run may have 100,000
  });
}

/** While a run goes on, a shard that was waiting for tables is read again. */
function forgetUnfinished(before) {
  for (const shard of before.shards) if (shard.waiting_for.length) rows.stale.add(shardKey(shard));
}

function loadedRows(wanted) {
  return wanted.flatMap((shard) => rows.shards.get(shardKey(shard)) || []);
}

const shardsOf = (round) => run.overview.shards.filter((shard) => !isKnown(round) || shard.round === round);

/** The members of a prompt's group in one round; loads that round's shards until they are found. */
async function findGroup(round, prompt, tell = () => {}) {
  const wanted = shardsOf(round);
  const found = () => loadedRows(wanted).filter((row) => row.prompt_id === prompt);
  await loadShards(wanted, tell, () => loadedGroup(wanted, prompt));
  return found();
}

function loadedGroup(wanted, prompt) {
  return wanted.some((shard) => (rows.shards.get(shardKey(shard)) || []).some((row) => row.prompt_id === prompt));
}

const FILTERS = {
  right: ["right", (row) => row.reward > 0],
  wrong: ["wrong", (row) => row.reward === 0],
  mined: ["mined", (row) => row.num_mined > 0],
  disputed: ["disputed", (row) => row.num_disputed > 0],
  sure: ["mined with p > 0.95", (row) => row.num_sure_mined > 0],
  spared_wrong: ["mined, truth says wrong", (row) => row.num_spared_wrong > 0],
  missing: ["verdict missing", (row) => row.num_missing > 0],
  unparsable: ["unparsable", (row) => row.num_unparsable > 0],
  truncated: ["truncated", (row) => row.stop_reason === "length" || row.status === "truncated"],
  dropped: ["dropped", (row) => isKnown(row.drop) && row.drop !== "waiting"],
};

const SORTS = {
  order: ["as asked", null],
  dispute: ["disagreement", (row) => row.dispute],
  length: ["length", (row) => row.num_tokens],
  mass: ["gradient mass", (row) => row.mass],
  mined: ["mined tokens", (row) => row.num_mined],
};

/** The rows that pass all filters, in the wanted order (largest first; unknown last). */
function select(all, wanted) {
  const tests = wanted.filter.map((name) => FILTERS[name][1]);
  const text = wanted.text.toLowerCase();
  const kept = all.filter(
    (row) =>
      tests.every((test) => test(row)) &&
      (!wanted.drop || row.drop === wanted.drop) &&
      (!wanted.prompt || row.prompt_id.includes(wanted.prompt)) &&
      (!text || `${row.question}\n${row.gold}\n${isKnown(row.found) ? row.found : ""}`.toLowerCase().includes(text)),
  );
  const by = SORTS[wanted.sort][1];
  if (!by) return kept;
  const value = (row) => (isKnown(by(row)) ? by(row) : -1);
  return kept.sort((a, b) => value(b) - value(a));
}
