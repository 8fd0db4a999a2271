// browser.mjs URL WORKFLOW.json OUT: drop the workflow on the canvas of a running ComfyUI, press Run, wait for the end.
// Environment: CHROMIUM, the browser; PW_DIR, the folder whose node_modules holds playwright-core.
// Writes OUT/seen.json and OUT/done.png.
import { createRequire } from 'module';
import fs from 'fs';
import os from 'os';
import path from 'path';

const { chromium } = createRequire(path.join(process.env.PW_DIR, '/'))('playwright-core');
const [url, file, out] = process.argv.slice(2);
const minutes = 60_000;
const quiet = ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-sync'];
const settings = { 'Comfy.TutorialCompleted': true };

await fetch(url + '/settings', { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(settings) });
const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'unitalk-browser-'));
const options = { executablePath: process.env.CHROMIUM, headless: true, viewport: { width: 1600, height: 900 }, args: quiet };
const context = await chromium.launchPersistentContext(profile, options);
try {
  await context.route(to => !['127.0.0.1', 'localhost'].includes(to.hostname), route => route.abort());
  const page = context.pages()[0] ?? await context.newPage();
  page.setDefaultTimeout(5 * minutes);
  await page.goto(url, { waitUntil: 'domcontentloaded' });
  await page.waitForFunction(() => window.app?.extensionManager && window.app?.canvas?.graph);
  await page.waitForTimeout(2000);
  await page.evaluate(listen);
  await page.evaluate(drop, [path.basename(file), fs.readFileSync(file, 'utf8')]);
  const wanted = JSON.parse(fs.readFileSync(file, 'utf8')).nodes.length;
  await page.waitForFunction(n => window.app.canvas.graph._nodes.length >= n, wanted);
  await page.waitForTimeout(1000);
  const seen = await page.evaluate(look);
  if (!seen.missing.length) {
    await page.getByRole('button', { name: /^(Run|Queue)/ }).first().click();
    await page.waitForFunction(() => window.heard.ended, null, { timeout: 15 * minutes });
    Object.assign(seen, await page.evaluate(() => window.heard));
    await page.waitForTimeout(1500);
  }
  await page.screenshot({ path: path.join(out, 'done.png') });
  fs.writeFileSync(path.join(out, 'seen.json'), JSON.stringify(seen, null, 1));
} finally {
  await context.close();
  fs.rmSync(profile, { recursive: true, force: true });
}

function listen() {
  window.heard = { ended: null, previews: 0 };
  const api = window.comfyAPI.api.api;
  for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
    api.addEventListener(kind, () => { window.heard.ended = kind; });
  for (const kind of ['b_preview', 'b_preview_with_metadata'])
    api.addEventListener(kind, () => { window.heard.previews += 1; });
}

function drop([name, text]) {
  const data = new DataTransfer();
  data.items.add(new File([text], name, { type: 'application/json' }));
  const canvas = document.querySelector('#graph-canvas');
  for (const kind of ['dragenter', 'dragover', 'drop'])
    canvas.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true, clientX: 700, clientY: 450 }));
}

async function look() {
  const nodes = window.app.canvas.graph._nodes, known = window.LiteGraph.registered_node_types;
  const { output } = await window.app.graphToPrompt();
  const prompt = Object.fromEntries(Object.entries(output).map(([id, one]) => [id, { class_type: one.class_type, inputs: one.inputs }]));
  return { nodes: nodes.length, missing: nodes.filter(one => !(one.type in known)).map(one => one.type), prompt };
}
