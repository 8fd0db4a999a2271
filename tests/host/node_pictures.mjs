// node_pictures.mjs URL OUT NODES.json [HELP]: a picture of each node as the real frontend draws it, OUT/TYPE.png.
// NODES.json is [{type, width, values}]. HELP.png is the help panel of the last one, HELP.json names the pictures in it.
import fs from 'fs';
import path from 'path';
import { visit } from './frontend.mjs';

const [url, out, file] = process.argv.slice(2);
const nodes = JSON.parse(fs.readFileSync(file, 'utf8'));
const margin = 2, title = 30;

await visit(url, async page => {
  await page.evaluate(() => window.app.extensionManager.setting.set('Comfy.NodeBadge.NodeSourceBadgeMode', 'None'));
  for (const node of nodes) {
    const [width, height] = await page.evaluate(place, node);
    await page.waitForTimeout(800);
    const [left, top] = await page.evaluate(() => {
      const at = window.app.canvas.canvas.getBoundingClientRect();
      return [at.left + 200, at.top + 150];
    });
    const clip = { x: left - margin, y: top - title - margin, width: width + 2 * margin, height: height + title + 2 * margin };
    await page.screenshot({ path: path.join(out, node.type + '.png'), clip });
  }
  if (process.argv[5]) {
    fs.writeFileSync(process.argv[5] + '.json', JSON.stringify(await help(page)));
    await page.screenshot({ path: process.argv[5] + '.png' });
  }
}, { width: 1600, height: 1000 });

// Put one node alone on the canvas, at scale 1, with these values in its widgets; returns its size.
function place({ type, width, values }) {
  const { canvas } = window.app, graph = canvas.graph;
  graph.clear();
  const node = window.LiteGraph.createNode(type);
  graph.add(node);
  node.pos = [0, 0];
  (node.widgets ?? []).forEach((widget, i) => { if (i < values.length) widget.value = values[i]; });
  node.setSize([Math.max(width, node.computeSize()[0]), node.computeSize()[1]]);
  canvas.ds.scale = 1;
  canvas.ds.offset = [200, 150];
  canvas.deselectAll?.();
  canvas.setDirty(true, true);
  return [...node.size].map(Math.ceil);
}

// Open the help page of the node on the canvas: which of its pictures are really there.
async function help(page) {
  await page.evaluate(() => window.app.canvas.selectNode(window.app.canvas.graph._nodes[0]));
  await page.getByTestId('info-button').click();
  await page.locator('.node-help-content img').first().waitFor();
  await page.waitForTimeout(2000);
  return page.evaluate(() => [...document.querySelectorAll('.node-help-content img')].map(one => [one.src, one.naturalWidth]));
}
