// The real frontend in Chromium: a page that is up, and what the other scripts do with its graph.
// Environment: CHROMIUM, the browser; PW_DIR, the folder whose node_modules holds playwright-core.
import { createRequire } from 'module';
import fs from 'fs';
import os from 'os';
import path from 'path';

const { chromium } = createRequire(path.join(process.env.PW_DIR, '/'))('playwright-core');
const quiet = ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-sync'];
const settings = { 'Comfy.TutorialCompleted': true, 'Comfy.Minimap.Visible': false, 'LiteGraph.Canvas.MinFontSizeForLOD': 0 };
export const minutes = 60_000;

export async function visit(url, work, viewport = { width: 1600, height: 900 }) {
  const head = { 'content-type': 'application/json' };
  await fetch(url + '/settings', { method: 'POST', headers: head, body: JSON.stringify(settings) });
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'unitalk-browser-'));
  const options = { executablePath: process.env.CHROMIUM, headless: true, viewport, args: quiet };
  const context = await chromium.launchPersistentContext(profile, options);
  try {
    await context.route(to => !['127.0.0.1', 'localhost'].includes(to.hostname), route => route.abort());
    const page = context.pages()[0] ?? await context.newPage();
    page.setDefaultTimeout(5 * minutes);
    await page.goto(url, { waitUntil: 'domcontentloaded' });
    await page.waitForFunction(() => window.app?.extensionManager && window.app?.canvas?.graph);
    await page.waitForTimeout(2000);
    await work(page);
  } finally {
    await context.close();
    fs.rmSync(profile, { recursive: true, force: true });
  }
}

// Drop a workflow file on the canvas; the combo boxes are read anew first, as R does.
export async function drop(page, name, text) {
  await page.evaluate(() => window.app.refreshComboInNodes());
  await page.evaluate(([name, text]) => {
    const data = new DataTransfer();
    data.items.add(new File([text], name, { type: 'application/json' }));
    const canvas = document.querySelector('#graph-canvas');
    for (const kind of ['dragenter', 'dragover', 'drop'])
      canvas.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true, clientX: 700, clientY: 450 }));
  }, [name, text]);
  const ids = JSON.parse(text).nodes.map(one => String(one.id)).sort().join();
  await page.waitForFunction(ids => window.app.canvas.graph._nodes.map(one => String(one.id)).sort().join() === ids, ids);
  await page.waitForTimeout(1000);
}

// What the frontend made of the graph: nodes without a type, their boxes [x, y, width, height], the prompt it would send.
export async function look(page) {
  return page.evaluate(async () => {
    const nodes = window.app.canvas.graph._nodes, known = window.LiteGraph.registered_node_types;
    const { output } = await window.app.graphToPrompt();
    const prompt = Object.fromEntries(Object.entries(output).map(([id, one]) => [id, { class_type: one.class_type, inputs: one.inputs }]));
    const missing = nodes.filter(one => !(one.type in known) && !one.isSubgraphNode?.()).map(one => one.type);
    return { nodes: nodes.length, missing, prompt };
  });
}

export async function boxes(page) {
  return page.evaluate(() => Object.fromEntries(window.app.canvas.graph._nodes.map(one => [one.id, [...one.pos, ...one.size].map(Math.round)])));
}

// Press Run, and listen.
export async function press(page) {
  await page.evaluate(() => {
    window.heard = { ended: null, previews: 0 };
    if (window.listens) return;
    window.listens = true;
    const api = window.comfyAPI.api.api;
    api.addEventListener('execution_start', ({ detail }) => { window.heard.start = detail.timestamp; });
    for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
      api.addEventListener(kind, ({ detail }) => {
        Object.assign(window.heard, { id: detail.prompt_id, seconds: (detail.timestamp - window.heard.start) / 1000 });
        window.heard.ended = kind;
      });
    for (const kind of ['b_preview', 'b_preview_with_metadata'])
      api.addEventListener(kind, () => { window.heard.previews += 1; });
  });
  await page.getByRole('button', { name: /^(Run|Queue)/ }).first().click();
}

// Wait for the end: how it ended, its prompt's id, the seconds that it took, and how many previews came.
export async function ended(page) {
  await page.waitForFunction(() => window.heard.ended, null, { timeout: 20 * minutes });
  return page.evaluate(() => window.heard);
}

// Show the whole graph.
export async function fit(page) {
  await page.evaluate(() => {
    const { canvas } = window.app, all = canvas.graph._nodes;
    const left = Math.min(...all.map(one => one.pos[0])), top = Math.min(...all.map(one => one.pos[1] - 80));
    const right = Math.max(...all.map(one => one.pos[0] + one.size[0])), bottom = Math.max(...all.map(one => one.pos[1] + one.size[1]));
    const { width, height } = canvas.canvas.getBoundingClientRect();
    const scale = Math.min((width - 120) / (right - left), (height - 120) / (bottom - top), 1);
    canvas.ds.scale = scale;
    canvas.ds.offset = [90 / scale - left, 90 / scale - top];
    canvas.setDirty(true, true);
  });
  await page.waitForTimeout(1500);
}

// The seconds that the video in each node has played, by node id; null where there is none. The page is quiet, so a video
// is started here if it did not start alone.
export async function playing(page) {
  const look = () => Object.fromEntries(window.app.canvas.graph._nodes.filter(one => one.type === 'SaveVideo').map(one => {
    const video = one.videoContainer?.querySelector('video');
    if (video?.paused && (video.muted = true)) video.play().catch(() => {});
    return [one.id, video?.currentTime ?? null];
  }));
  for (let i = 0; i < 60; i += 1) {
    if (Object.values(await page.evaluate(look)).every(one => one > 0)) break;
    await page.waitForTimeout(1000);
  }
  return page.evaluate(look);
}
