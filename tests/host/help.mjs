// help.mjs URL OUT TYPE...: open the help of each node as an artist does, select it and press the info button, and write down
// what is there: OUT/help.json, and OUT/TYPE.png of the first three.
import fs from 'fs';
import path from 'path';
import { visit } from './frontend.mjs';

const [url, out, ...types] = process.argv.slice(2);

await visit(url, async page => {
  const seen = {};
  for (const [i, type] of types.entries()) {
    try {
      await page.evaluate(place, type);
      if (!i) await page.getByTestId('info-button').click(); // the panel stays open and follows the selection
      await page.locator('.node-help-content img').first().waitFor({ timeout: 20_000 });
      await page.waitForFunction(shows, type, { timeout: 20_000 });
    } catch (error) {
      seen[type] = { error: String(error).slice(0, 500) };
    }
    seen[type] = { ...seen[type], ...await page.evaluate(read) };
    if (i < 3 || seen[type].error) await page.screenshot({ path: path.join(out, type + '.png') });
  }
  fs.writeFileSync(path.join(out, 'help.json'), JSON.stringify(seen, null, 1));
}, { width: 1600, height: 1000 });

// One node alone on the canvas, selected.
function place(type) {
  const { canvas } = window.app;
  canvas.graph.clear();
  const node = window.LiteGraph.createNode(type);
  canvas.graph.add(node);
  node.pos = [0, 0];
  canvas.ds.scale = 1;
  canvas.ds.offset = [700, 250];
  canvas.selectNode(node);
  canvas.setDirty(true, true);
}

function shows(type) {
  const images = [...document.querySelectorAll('.node-help-content img')];
  return images.some(one => one.src.includes(`/${type}.png`)) && images.every(one => one.complete && one.naturalWidth > 0);
}

function read() {
  const panel = document.querySelector('.node-help-content');
  const texts = kind => [...panel?.querySelectorAll(kind) ?? []].map(one => one.textContent.trim());
  return {
    titles: texts('h1'), sections: texts('h2'), codes: texts('code'), tables: texts('table').length, text: panel?.textContent ?? '',
    images: [...panel?.querySelectorAll('img') ?? []].map(one => [one.src.replace(/^.*:\d+/, ''), one.naturalWidth, one.clientWidth]),
  };
}
