// All answers to one prompt, side by side, and how the same prompt fared in other rounds.

const MANY_SHARDS = 60;

async function groupView(route) {
  const { round, prompt } = route;
  const members = (await findGroup(round, prompt, searching)).toSorted((a, b) => a.sample - b.sample);
  if (!members.length) throw noGroup(round, prompt);
  const rewards = members.filter((row) => isKnown(row.reward));
  const right = rewards.filter((row) => row.reward > 0).length;
  const page = h(
    "div",
    { class: "group" },
    trail([["Samples", walk.hash], [`Round ${round}`, `#/samples?round=${round}`]]),
    h("h1", { tabindex: "-1" }, "Prompt ", h("bdi", null, visible(prompt)), ` in round ${round}`),
    questionBlock(members[0].question, members[0].gold),
    h("p", null, h("strong", null, `${right} of ${rewards.length}`), ` right`,
      rewards.length < members.length ? `, ${members.length - rewards.length} without a reward` : "",
      groupWords(members)),
    groupCharts(members),
    h("h2", null, "Answers side by side"),
    h("div", { class: "members" }, members.map(memberCard)),
    otherRounds(round, prompt),
  );
  return { page, title: `Prompt ${prompt}, round ${round}` };
}

const searching = (done, total) => (byId("searching") ? (byId("searching").textContent = `Looking through shard ${num(done)} of ${num(total)} …`) : null);

function noGroup(round, prompt) {
  const rounds = [...new Set(run.overview.shards.map((shard) => shard.round))];
  return new RunError(
    `Round ${round} has no prompt ${prompt}.`,
    rounds.length ? `This run has samples of ${rounds.length === 1 ? "round" : "rounds"} ${rounds.join(", ")}; a prompt is dealt to some rounds only.` : "This run has no samples yet.",
    "Pick a prompt from the list of samples; the link may be mistyped.",
  );
}

function groupWords(members) {
  const reasons = [...new Set(members.map((row) => row.drop).filter((drop) => isKnown(drop)))];
  return reasons.length ? [". ", reasons.map((reason) => [h("span", { class: "note" }, reason === "waiting" ? "not weighed yet" : `dropped: ${plain(reason)}`), ". ", dropWords(reason), " "])] : ".";
}

function trail(links) {
  return h("nav", { class: "trail", "aria-label": "Where you are" }, links.map(([text, href], i) => [i ? " › " : "", h("a", { href }, text)]));
}

function questionBlock(question, gold) {
  return h("dl", { class: "facts" }, h("div", { class: "whole" }, h("dt", null, "Question"), h("dd", null, written(question))), h("div", null, h("dt", null, "Right answer"), h("dd", null, written(gold))));
}

const kindOf = (row) => (isKnown(row.reward) ? (row.reward > 0 ? "right" : "wrong") : "none");

function groupCharts(members) {
  const count = (kind) => members.filter((row) => kindOf(row) === kind).length;
  return h("div", { class: "beside" },
    h("figure", null, h("figcaption", null, "Rewards"),
      partsBar("Rewards", [{ name: "right", num: count("right"), kind: "right" }, { name: "wrong", num: count("wrong"), kind: "wrong" }, { name: "no reward", num: count("none"), kind: "none" }])),
    h("figure", null, h("figcaption", null, "Length in tokens: right below, wrong above"),
      histogram({ title: "Length in tokens", values: members.map((row) => ({ value: row.num_tokens, kind: kindOf(row) })) })));
}

function memberCard(row) {
  const text = h("div", { class: "member-text" }, h("p", { class: "soft" }, "Loading the text …"));
  const drawn = h(
    "article",
    { class: `member ${kindOf(row)}` },
    h("h3", null, h("a", { href: sampleLink(row.round, row.prompt_id, row.sample), "data-row": row.key }, `Sample ${row.sample}`), " ", rewardMark(row.reward)),
    h("p", null, answerWords(row), h("span", { class: "soft" }, ` · ${plural(row.num_tokens, "token")}`, isKnown(row.advantage) ? ` · advantage ${brief(row.advantage)}` : "")),
    row.strip ? h("p", null, strip(row.strip)) : null,
    row.num_mined ? h("p", { class: "soft" }, `mined ${minedWords(row)} tokens`) : null,
    h("p", null, notesOf(row)),
    text,
  );
  run.source.sample(row.round, row.prompt_id, row.sample).then(
    (sample) => replace(text, written(sample.text)),
    (error) => replace(text, h("p", { class: "soft" }, visible(error.problem || error.message))),
  );
  return drawn;
}

function otherRounds(round, prompt) {
  const rounds = [...new Set(run.overview.shards.map((shard) => shard.round))].filter((other) => other !== round);
  const box = h("section", { "aria-label": "The same prompt in other rounds" }, h("h2", null, "The same prompt in other rounds"));
  if (!rounds.length) return append(box, h("p", { class: "soft" }, "There is no other round with samples.")), box;
  const content = h("div");
  const look = async () => {
    replace(content, h("p", { class: "soft" }, "Looking …"));
    const found = [];
    for (const other of rounds) found.push([other, await findGroup(other, prompt)]);
    replace(content, roundsTable(found.filter(([, members]) => members.length), prompt, round));
  };
  append(box, content);
  if (run.overview.shards.length <= MANY_SHARDS) look();
  else append(content, h("button", { onclick: look }, `Look through ${plural(run.overview.shards.length, "shard")}`));
  return box;
}

function roundsTable(found, prompt) {
  if (!found.length) return h("p", { class: "soft" }, "It was asked in this round only.");
  const mean = (members, of) => members.reduce((sum, row) => sum + of(row), 0) / members.length;
  return table("The same prompt in other rounds", [
    { head: "Round", cell: ([other]) => h("a", { href: groupLink(other, prompt) }, `Round ${other}`) },
    { head: "Right", number: true, cell: ([, members]) => `${members.filter((row) => row.reward > 0).length} of ${members.length}` },
    { head: "Mean length", number: true, cell: ([, members]) => num(mean(members, (row) => row.num_tokens)) },
    { head: "Mined tokens", number: true, cell: ([, members]) => num(members.reduce((sum, row) => sum + row.num_mined, 0)) },
    { head: "Answers", cell: ([, members]) => members.map((row) => h("a", { class: `mark ${kindOf(row)}`, href: sampleLink(row.round, row.prompt_id, row.sample), "aria-label": `Sample ${row.sample}, ${kindOf(row)}` }, { right: "✓", wrong: "✗", none: "○" }[kindOf(row)])) },
  ], found);
}
