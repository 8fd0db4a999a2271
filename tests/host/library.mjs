// library.mjs URL OUT [STEPS]: find the pack's subgraphs in the node search, place and connect them, press Run.
// Writes OUT/library.json, what was seen, and OUT/library.png (the node library) and OUT/placed.png (the graph at the end).
import fs from 'fs';
import path from 'path';
import { ended, fit, playing, press, visit } from './frontend.mjs';

const [url, out, steps] = process.argv.slice(2);
const names = ['Talking clip from text', 'Talking clip from a picture and a voice'];

await visit(url, async page => {
  const seen = { placed: [] };
  await page.waitForTimeout(8000);
  await page.keyboard.press('Escape'); // a new user is greeted with templates
  await page.waitForTimeout(1000);
  await page.evaluate(() => window.app.canvas.graph.clear());
  for (const [i, name] of names.entries()) {
    await search(page, name, 500 + 900 * i);
    seen.placed.push(await page.evaluate(() => window.app.canvas.graph._nodes.map(one => [one.title, one.isSubgraphNode?.() ?? false])));
  }
  await page.evaluate(connect, [names, Number(steps ?? 0)]);
  await press(page);
  Object.assign(seen, await ended(page));
  await fit(page);
  seen.playing = await playing(page);
  await page.screenshot({ path: path.join(out, 'placed.png') });
  await page.getByRole('button', { name: /Node Library/ }).click();
  await page.getByPlaceholder(/Search/).first().fill('Talking clip');
  await page.waitForTimeout(3000);
  await page.screenshot({ path: path.join(out, 'library.png') });
  fs.writeFileSync(path.join(out, 'library.json'), JSON.stringify(seen, null, 1));
}, { width: 2000, height: 1000 });

// As an artist does: double click on the canvas, type the name, Enter, and a click where it shall lie.
async function search(page, name, x) {
  await page.mouse.dblclick(x, 300);
  await page.waitForTimeout(1500);
  await page.keyboard.type(name.slice(0, 24)); // the search finds nothing for more than 32 letters
  await page.waitForTimeout(2500);
  await page.keyboard.press('Enter');
  await page.waitForTimeout(1500);
  await page.mouse.click(x, 300);
  await page.waitForTimeout(1000);
}

// The text's clip gives picture and voice to the other one; both are saved.
function connect([[text, portrait], steps]) {
  const { graph } = window.app.canvas, of = title => graph._nodes.find(one => one.title === title);
  const add = (type, pos) => {
    const node = window.LiteGraph.createNode(type);
    graph.add(node);
    node.pos = pos;
    return node;
  };
  const first = of(text), second = of(portrait);
  first.pos = [0, 0];
  second.pos = [900, 0];
  const taken = add('GetVideoComponents', [520, 0]), frame = add('ImageFromBatch', [520, 200]);
  const saves = [add('SaveVideo', [0, 700]), add('SaveVideo', [1400, 0])];
  first.connect(0, saves[0], 'video');
  first.connect(0, taken, 'video');
  taken.connect(0, frame, 'image');
  frame.connect(0, second, 'picture');
  taken.connect(1, second, 'voice');
  second.connect(0, saves[1], 'video');
  for (const one of [first, second])
    for (const node of steps ? one.subgraph.nodes : [])
      for (const widget of node.widgets ?? []) if (widget.name === 'steps') widget.value = steps;
}
