// sound.mjs URL OUT WORKFLOW.json: run a workflow with the classic and the new nodes, and with the setting off: is there a
// player in a node, in which, and what does it hold? Writes OUT/sound.json and a picture of each run.
import fs from 'fs';
import path from 'path';
import { drop, ended, fit, press, visit } from './frontend.mjs';

const [url, out, file] = process.argv.slice(2);
const ours = 'UniTalk.SoundWhileSampling', vue = 'Comfy.VueNodes.Enabled';

await visit(url, async page => {
  const seen = { errors: [] };
  page.on('pageerror', error => seen.errors.push(String(error)));
  page.on('console', line => { if (/UniTalk/.test(line.text())) seen.errors.push(line.text()); });
  await drop(page, path.basename(file), fs.readFileSync(file, 'utf8'));
  seen.before = await page.evaluate(saved);
  for (const [name, on, isNew] of [['classic', true, false], ['vue', true, true], ['off', false, false]]) {
    await page.evaluate(another, { [ours]: on, [vue]: isNew });
    await page.waitForTimeout(2000);
    await press(page);
    const { ended: how } = await ended(page);
    await fit(page);
    seen[name] = { how, players: await page.evaluate(players), widgets: await page.evaluate(widgets) };
    await page.screenshot({ path: path.join(out, name + '.png') });
  }
  seen.after = await page.evaluate(saved);
  fs.writeFileSync(path.join(out, 'sound.json'), JSON.stringify(seen, null, 1));
}, { width: 1600, height: 900 });

// Other settings, and other seeds, or the host would not sample again.
async function another(settings) {
  for (const [id, value] of Object.entries(settings)) await window.app.extensionManager.setting.set(id, value);
  for (const node of window.app.canvas.graph._nodes)
    for (const widget of node.widgets ?? []) if (widget.name.endsWith('seed')) widget.value += 1;
}

async function players() {
  const found = [...document.querySelectorAll('audio.unitalk-sound')];
  const known = one => one.duration > 0 || new Promise(done => {
    one.addEventListener('loadedmetadata', () => done(true));
    setTimeout(() => done(false), 5000);
  });
  await Promise.all(found.map(known));
  return found.map(one => ({ duration: one.duration, error: one.error?.message ?? null, controls: one.controls, box: [one.offsetWidth, one.offsetHeight] }));
}

function widgets() {
  return window.app.canvas.graph._nodes.filter(one => one.widgets?.some(widget => widget.name === 'unitalk_sound')).map(one => one.type);
}

// What a saved file would hold of the widgets.
function saved() {
  return JSON.stringify(window.app.graph.serialize().nodes.map(one => [one.id, (one.widgets_values ?? []).length]));
}
