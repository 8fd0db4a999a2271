// The sound of a clip while it is sampled, as a player in the node that samples. Nothing here can stop a graph.
import { app } from '../../scripts/app.js';
import { api } from '../../scripts/api.js';

const SETTING = 'UniTalk.SoundWhileSampling', HEIGHT = 44;
const players = new Map(); // node -> { widget, audio, next }
let asked = null; // as whom

const safely = work => (...args) => {
  try {
    return work(...args);
  } catch (error) {
    console.warn('UniTalk: no sound while sampling:', error);
  }
};

// The server makes snippets for those browsers alone that ask for them.
function ask(on) {
  if (!api.clientId) return;
  asked = api.clientId;
  const body = JSON.stringify({ client_id: api.clientId, on });
  const headers = { 'Content-Type': 'application/json' };
  api.fetchApi('/unitalk/hear', { method: 'POST', headers, body }).catch(() => {});
}

const wanted = () => app.extensionManager.setting.get(SETTING) !== false;

// The node on the outermost canvas: of one inside a subgraph, the subgraph.
function shown(id) {
  const graph = app.rootGraph ?? app.graph;
  return graph.getNodeById(String(id).split(':')[0]);
}

function playerOf(node) {
  if (players.has(node)) return players.get(node);
  const audio = document.createElement('audio');
  audio.controls = true;
  audio.className = 'unitalk-sound';
  audio.style.cssText = `width: 100%; height: ${HEIGHT - 8}px; min-height: ${HEIGHT - 8}px`;
  for (const kind of ['pointerdown', 'wheel']) audio.addEventListener(kind, event => event.stopPropagation());
  const size = () => HEIGHT;
  const options = { serialize: false, hideOnZoom: false, getMinHeight: size, getMaxHeight: size };
  const widget = node.addDOMWidget('unitalk_sound', 'unitalk_sound', audio, options);
  widget.serialize = false; // it is no part of a saved workflow
  node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])]);
  const player = { widget, audio, next: null };
  for (const kind of ['pause', 'ended']) audio.addEventListener(kind, () => load(player));
  players.set(node, player);
  return player;
}

// What comes while one listens waits until the end.
function load(player) {
  if (!player.next || !player.audio.paused) return;
  player.audio.src = player.next;
  player.next = null;
}

function hear({ detail }) {
  const node = wanted() && shown(detail.node);
  if (!node) return;
  const player = playerOf(node);
  const at = new URLSearchParams({ filename: detail.file, type: 'temp', at: Date.now() });
  player.next = api.apiURL(`/view?${at}`);
  load(player);
  node.setDirtyCanvas?.(true, true);
}

function forget() {
  for (const [node, { widget, audio }] of players) {
    audio.pause();
    const height = node.size[1] - HEIGHT;
    if (node.widgets?.includes(widget)) node.removeWidget(widget);
    node.setSize([node.size[0], Math.max(height, node.computeSize()[1])]);
  }
  players.clear();
}

app.registerExtension({
  name: 'UniTalk.SoundWhileSampling',
  settings: [{
    id: SETTING,
    name: 'UniTalk: sound while sampling',
    tooltip: 'A player in the sampling node plays what is made so far.',
    category: ['UniTalk', 'Previews', 'Sound while sampling'],
    type: 'boolean',
    defaultValue: true,
    onChange: safely(on => {
      ask(on !== false);
      if (on === false) forget();
    }),
  }],
  setup: safely(() => {
    api.addEventListener('unitalk.sound', safely(hear));
    api.addEventListener('execution_start', safely(forget));
    api.addEventListener('status', safely(() => { if (api.clientId !== asked) ask(wanted()); }));
    api.addEventListener('reconnected', safely(() => ask(wanted())));
    ask(wanted());
  }),
});
