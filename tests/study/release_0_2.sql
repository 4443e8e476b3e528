PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO studies VALUES(1,'old');
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO version_info VALUES(1,12,'5.0.0');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	study_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	PRIMARY KEY (study_direction_id), 
	UNIQUE (study_id, objective), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO study_directions VALUES(1,'MAXIMIZE',1,0);
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO study_user_attributes VALUES(1,1,'nas_optuna:format','2');
INSERT INTO study_user_attributes VALUES(2,1,'nas_optuna:spec','{"data": {"name": "digits", "train_limit": 200, "validation_fraction": 0.2, "split_seed": 0, "select_on": "validation", "resize": "stretch", "max_side": null}, "space": {"name": "conv"}, "recipe": {"epochs": 1, "batch_size": 32, "optimizer": "adamw", "learning_rate": 0.003, "momentum": 0.9, "weight_decay": 0.0, "schedule": "cosine", "init": "kaiming", "input_size": 16, "precision": "auto", "seed": 0, "repeats": 1, "shift": 0, "flip": false, "cutout": 0, "cuda_graphs": true, "compile": false}, "evaluator": {"name": "training"}, "sampler": {"name": "tpe", "seed": 0}, "pruner": {"name": "guarded"}, "supernet": {}, "objectives": ["accuracy"], "limits": {}, "latency": {"table": null, "force": false, "threads": 1, "batch_size": 1, "precision": "fp32"}, "reuse_duplicates": true, "fixed": {}, "search": {}}');
INSERT INTO study_user_attributes VALUES(3,1,'nas_optuna:space','{"name": "conv", "version": 1, "in_channels": 1, "classes": 10, "input_size": 16, "parameters": {"conv1.filters": [16, 24, 32, 48], "conv1.kernel": [3, 5, 7], "conv1.stride": [1, 2], "conv2.filters": [16, 24, 32, 48], "conv2.kernel": [3, 5, 7], "conv2.stride": [1, 2], "conv3.filters": [16, 24, 32, 48], "conv3.kernel": [3, 5, 7], "conv3.stride": [1, 2], "conv4.filters": [16, 24, 32, 48], "conv4.kernel": [3, 5, 7], "conv4.stride": [1, 2], "conv5.filters": [16, 24, 32, 48], "conv5.kernel": [3, 5, 7], "conv5.stride": [1, 2]}}');
INSERT INTO study_user_attributes VALUES(4,1,'nas_optuna:data','{"name": "digits", "fingerprint": "812736190692d5c53bfe2eefaf84ec89", "training": 160, "validation": 40}');
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO study_system_attributes VALUES(1,1,'study:metric_names','["accuracy"]');
INSERT INTO study_system_attributes VALUES(2,1,'dashboard:artifacts:1:3aed2cfc-70f9-4e08-88ac-d4e45fcb1b04','"{\"artifact_id\": \"3aed2cfc-70f9-4e08-88ac-d4e45fcb1b04\", \"filename\": \"drawing.svg\", \"mimetype\": \"image/svg+xml\", \"encoding\": null}"');
INSERT INTO study_system_attributes VALUES(3,1,'dashboard:1:note_str:0','"**f32k5s1-f24k7s2-f24k5s2-f32k7s1-f48k3s1** was trained to the end, which is 1 epoch.\n\n![The network, drawn: boxes are layers, the bars their shares of MACs](/artifacts/1/1/3aed2cfc-70f9-4e08-88ac-d4e45fcb1b04)\n\n| figure&emsp; | value |\n|:--|:--|\n| accuracy&emsp; | 0.2500 \u00b1 0.0671 |\n| MACs&emsp; | 2,207,136 |\n| weights&emsp; | 104,938 |\n| memory&emsp; | 493,352 bytes |\n| training time&emsp; | 0.2 s |\n| proposed by&emsp; | TPESampler |\n\n| &emsp; | filters&emsp; | kernel&emsp; | stride |\n|:--|:--|:--|:--|\n| conv1&emsp; | 32&emsp; | 5&emsp; | 1 |\n| conv2&emsp; | 24&emsp; | 7&emsp; | 2 |\n| conv3&emsp; | 24&emsp; | 5&emsp; | 2 |\n| conv4&emsp; | 32&emsp; | 7&emsp; | 1 |\n| conv5&emsp; | 48&emsp; | 3&emsp; | 1 |"');
INSERT INTO study_system_attributes VALUES(4,1,'dashboard:1:note_ver','1');
INSERT INTO study_system_attributes VALUES(8,1,'dashboard:artifacts:2:0dffdbff-bbb1-4d74-b2e4-df0b2058a4f6','"{\"artifact_id\": \"0dffdbff-bbb1-4d74-b2e4-df0b2058a4f6\", \"filename\": \"drawing.svg\", \"mimetype\": \"image/svg+xml\", \"encoding\": null}"');
INSERT INTO study_system_attributes VALUES(9,1,'dashboard:2:note_str:0','"**f32k7s1-f16k7s1-f16k7s1-f24k3s1-f32k7s1** was trained to the end, which is 1 epoch.\n\n![The network, drawn: boxes are layers, the bars their shares of MACs](/artifacts/1/2/0dffdbff-bbb1-4d74-b2e4-df0b2058a4f6)\n\n| figure&emsp; | value |\n|:--|:--|\n| accuracy&emsp; | 0.1000 \u00b1 0.0517 |\n| MACs&emsp; | 4,848,128 |\n| weights&emsp; | 81,698 |\n| memory&emsp; | 400,392 bytes |\n| training time&emsp; | 0.1 s |\n| proposed by&emsp; | TPESampler |\n\n| &emsp; | filters&emsp; | kernel&emsp; | stride |\n|:--|:--|:--|:--|\n| conv1&emsp; | 32&emsp; | 7&emsp; | 1 |\n| conv2&emsp; | 16&emsp; | 7&emsp; | 1 |\n| conv3&emsp; | 16&emsp; | 7&emsp; | 1 |\n| conv4&emsp; | 24&emsp; | 3&emsp; | 1 |\n| conv5&emsp; | 32&emsp; | 7&emsp; | 1 |"');
INSERT INTO study_system_attributes VALUES(10,1,'dashboard:2:note_ver','1');
INSERT INTO study_system_attributes VALUES(11,1,'dashboard:artifacts:3:099c3234-ba74-4a44-a511-ddd28a3359a3','"{\"artifact_id\": \"099c3234-ba74-4a44-a511-ddd28a3359a3\", \"filename\": \"drawing.svg\", \"mimetype\": \"image/svg+xml\", \"encoding\": null}"');
INSERT INTO study_system_attributes VALUES(12,1,'dashboard:3:note_str:0','"**f32k5s1-f16k7s1-f32k7s2-f16k7s1-f32k5s1** was trained to the end, which is 1 epoch.\n\n![The network, drawn: boxes are layers, the bars their shares of MACs](/artifacts/1/3/099c3234-ba74-4a44-a511-ddd28a3359a3)\n\n| figure&emsp; | value |\n|:--|:--|\n| accuracy&emsp; | 0.3500 \u00b1 0.0725 |\n| MACs&emsp; | 4,303,744 |\n| weights&emsp; | 90,282 |\n| memory&emsp; | 434,728 bytes |\n| training time&emsp; | 0.1 s |\n| proposed by&emsp; | TPESampler |\n\n| &emsp; | filters&emsp; | kernel&emsp; | stride |\n|:--|:--|:--|:--|\n| conv1&emsp; | 32&emsp; | 5&emsp; | 1 |\n| conv2&emsp; | 16&emsp; | 7&emsp; | 1 |\n| conv3&emsp; | 32&emsp; | 7&emsp; | 2 |\n| conv4&emsp; | 16&emsp; | 7&emsp; | 1 |\n| conv5&emsp; | 32&emsp; | 5&emsp; | 1 |"');
INSERT INTO study_system_attributes VALUES(13,1,'dashboard:3:note_ver','1');
INSERT INTO study_system_attributes VALUES(14,1,'dashboard:note_str:0','"A search for neural networks: **accuracy** on digits, space conv, sampler tpe, pruner guarded, 1 epoch per trial.\n\n3 trials: 3 complete.\n\n## The best\n\n| trial&emsp; | accuracy&emsp; | MACs&emsp; | weights&emsp; | memory&emsp; | training time&emsp; | proposed by&emsp; | architecture |\n|:--|:--|:--|:--|:--|:--|:--|:--|\n| 2&emsp; | 0.3500 \u00b1 0.0725&emsp; | 4,303,744&emsp; | 90,282&emsp; | 434,728 bytes&emsp; | 0.1 s&emsp; | TPESampler&emsp; | f32k5s1-f16k7s1-f32k7s2-f16k7s1-f32k5s1 |\n\n![The best network, drawn](/artifacts/1/3/099c3234-ba74-4a44-a511-ddd28a3359a3)\n\nThese are figures of validation images, which chose the best: expect a little less on new images. `nas-optuna retrain --study old` looks at the test images, once."');
INSERT INTO study_system_attributes VALUES(15,1,'dashboard:note_ver','3');
INSERT INTO study_system_attributes VALUES(16,1,'nas_optuna:note','"5477b2c699e1129b"');
CREATE TABLE trials (
	trial_id INTEGER NOT NULL, 
	number INTEGER, 
	study_id INTEGER, 
	state VARCHAR(8) NOT NULL, 
	datetime_start DATETIME, 
	datetime_complete DATETIME, 
	PRIMARY KEY (trial_id), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO trials VALUES(1,0,1,'COMPLETE','2026-11-28 05:53:19.355897','2026-11-28 05:53:23.441960');
INSERT INTO trials VALUES(2,1,1,'COMPLETE','2026-11-28 05:53:23.501588','2026-11-28 05:53:23.873186');
INSERT INTO trials VALUES(3,2,1,'COMPLETE','2026-11-28 05:53:23.915104','2026-11-28 05:53:24.284580');
INSERT INTO trials VALUES(4,3,1,'RUNNING','2026-11-28 05:53:32.371520',NULL);
INSERT INTO trials VALUES(5,4,1,'RUNNING','2026-11-28 05:53:32.511106',NULL);
INSERT INTO trials VALUES(6,5,1,'WAITING',NULL,NULL);
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO trial_user_attributes VALUES(6,1,'nas_optuna:architecture','"f32k5s1-f24k7s2-f24k5s2-f32k7s1-f48k3s1"');
INSERT INTO trial_user_attributes VALUES(7,1,'nas_optuna:identity','"94718e26db4997c7"');
INSERT INTO trial_user_attributes VALUES(8,1,'nas_optuna:device','"AMD EPYC"');
INSERT INTO trial_user_attributes VALUES(9,1,'nas_optuna:recipe','"e791634f257a"');
INSERT INTO trial_user_attributes VALUES(10,1,'nas_optuna:seed','0');
INSERT INTO trial_user_attributes VALUES(11,1,'nas_optuna:origin','"TPESampler"');
INSERT INTO trial_user_attributes VALUES(12,1,'nas_optuna:worker','"vm/3d1219c7c4c5404aaa1f6d2a48adfda4/5584c523-3f38-43c3-a587-ede9dd16df23/4026531836/27141/193010"');
INSERT INTO trial_user_attributes VALUES(13,1,'nas_optuna:lease','1795845503.403');
INSERT INTO trial_user_attributes VALUES(14,1,'nas_optuna:metrics','{"accuracy": 0.25, "negative_log_likelihood": 2.2505850791931152}');
INSERT INTO trial_user_attributes VALUES(15,1,'nas_optuna:accuracy','0.25');
INSERT INTO trial_user_attributes VALUES(16,1,'nas_optuna:macs','2207136');
INSERT INTO trial_user_attributes VALUES(17,1,'nas_optuna:params','104938');
INSERT INTO trial_user_attributes VALUES(18,1,'nas_optuna:memory','493352');
INSERT INTO trial_user_attributes VALUES(19,1,'nas_optuna:epochs','1');
INSERT INTO trial_user_attributes VALUES(20,1,'nas_optuna:seconds','0.21');
INSERT INTO trial_user_attributes VALUES(21,2,'nas_optuna:worker','"vm/3d1219c7c4c5404aaa1f6d2a48adfda4/5584c523-3f38-43c3-a587-ede9dd16df23/4026531836/27141/193010"');
INSERT INTO trial_user_attributes VALUES(22,2,'nas_optuna:lease','1795845503.501');
INSERT INTO trial_user_attributes VALUES(26,2,'nas_optuna:architecture','"f32k7s1-f16k7s1-f16k7s1-f24k3s1-f32k7s1"');
INSERT INTO trial_user_attributes VALUES(27,2,'nas_optuna:identity','"94718e26db4997c7"');
INSERT INTO trial_user_attributes VALUES(28,2,'nas_optuna:device','"AMD EPYC"');
INSERT INTO trial_user_attributes VALUES(29,2,'nas_optuna:recipe','"e791634f257a"');
INSERT INTO trial_user_attributes VALUES(30,2,'nas_optuna:seed','0');
INSERT INTO trial_user_attributes VALUES(31,2,'nas_optuna:origin','"TPESampler"');
INSERT INTO trial_user_attributes VALUES(32,2,'nas_optuna:metrics','{"accuracy": 0.1, "negative_log_likelihood": 2.231175422668457}');
INSERT INTO trial_user_attributes VALUES(33,2,'nas_optuna:accuracy','0.1');
INSERT INTO trial_user_attributes VALUES(34,2,'nas_optuna:macs','4848128');
INSERT INTO trial_user_attributes VALUES(35,2,'nas_optuna:params','81698');
INSERT INTO trial_user_attributes VALUES(36,2,'nas_optuna:memory','400392');
INSERT INTO trial_user_attributes VALUES(37,2,'nas_optuna:epochs','1');
INSERT INTO trial_user_attributes VALUES(38,2,'nas_optuna:seconds','0.14');
INSERT INTO trial_user_attributes VALUES(39,3,'nas_optuna:worker','"vm/3d1219c7c4c5404aaa1f6d2a48adfda4/5584c523-3f38-43c3-a587-ede9dd16df23/4026531836/27141/193010"');
INSERT INTO trial_user_attributes VALUES(40,3,'nas_optuna:lease','1795845503.914');
INSERT INTO trial_user_attributes VALUES(44,3,'nas_optuna:architecture','"f32k5s1-f16k7s1-f32k7s2-f16k7s1-f32k5s1"');
INSERT INTO trial_user_attributes VALUES(45,3,'nas_optuna:identity','"94718e26db4997c7"');
INSERT INTO trial_user_attributes VALUES(46,3,'nas_optuna:device','"AMD EPYC"');
INSERT INTO trial_user_attributes VALUES(47,3,'nas_optuna:recipe','"e791634f257a"');
INSERT INTO trial_user_attributes VALUES(48,3,'nas_optuna:seed','0');
INSERT INTO trial_user_attributes VALUES(49,3,'nas_optuna:origin','"TPESampler"');
INSERT INTO trial_user_attributes VALUES(50,3,'nas_optuna:metrics','{"accuracy": 0.35, "negative_log_likelihood": 2.1993343830108643}');
INSERT INTO trial_user_attributes VALUES(51,3,'nas_optuna:accuracy','0.35');
INSERT INTO trial_user_attributes VALUES(52,3,'nas_optuna:macs','4303744');
INSERT INTO trial_user_attributes VALUES(53,3,'nas_optuna:params','90282');
INSERT INTO trial_user_attributes VALUES(54,3,'nas_optuna:memory','434728');
INSERT INTO trial_user_attributes VALUES(55,3,'nas_optuna:epochs','1');
INSERT INTO trial_user_attributes VALUES(56,3,'nas_optuna:seconds','0.13');
INSERT INTO trial_user_attributes VALUES(57,4,'nas_optuna:worker','"gone-host/gone-machine/gone-boot/4026531836/27248/194502"');
INSERT INTO trial_user_attributes VALUES(58,4,'nas_optuna:lease','1.0');
INSERT INTO trial_user_attributes VALUES(59,5,'nas_optuna:worker','"gone-host/gone-machine/gone-boot/4026531836/27248/194502"');
INSERT INTO trial_user_attributes VALUES(60,5,'nas_optuna:lease','9000000000.0');
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO trial_system_attributes VALUES(1,6,'fixed_params','{"conv1.filters": 32, "conv1.kernel": 5, "conv1.stride": 1, "conv2.filters": 24, "conv2.kernel": 7, "conv2.stride": 2, "conv3.filters": 24, "conv3.kernel": 5, "conv3.stride": 2, "conv4.filters": 32, "conv4.kernel": 7, "conv4.stride": 1, "conv5.filters": 48, "conv5.kernel": 3, "conv5.stride": 1}');
CREATE TABLE trial_params (
	param_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	param_name VARCHAR(512), 
	param_value FLOAT, 
	distribution_json TEXT, 
	PRIMARY KEY (param_id), 
	UNIQUE (trial_id, param_name), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO trial_params VALUES(1,1,'conv1.filters',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO trial_params VALUES(2,1,'conv1.kernel',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO trial_params VALUES(3,1,'conv1.stride',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO trial_params VALUES(4,1,'conv2.filters',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO trial_params VALUES(5,1,'conv2.kernel',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO trial_params VALUES(6,1,'conv2.stride',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO trial_params VALUES(7,1,'conv3.filters',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO trial_params VALUES(8,1,'conv3.kernel',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO trial_params VALUES(9,1,'conv3.stride',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO trial_params VALUES(10,1,'conv4.filters',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO trial_params VALUES(11,1,'conv4.kernel',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO trial_params VALUES(12,1,'conv4.stride',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO trial_params VALUES(13,1,'conv5.filters',3.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO trial_params VALUES(14,1,'conv5.kernel',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO trial_params VALUES(15,1,'conv5.stride',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO trial_params VALUES(16,2,'conv1.filters',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO trial_params VALUES(17,2,'conv1.kernel',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO trial_params VALUES(18,2,'conv1.stride',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO trial_params VALUES(19,2,'conv2.filters',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO trial_params VALUES(20,2,'conv2.kernel',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO trial_params VALUES(21,2,'conv2.stride',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO trial_params VALUES(22,2,'conv3.filters',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO trial_params VALUES(23,2,'conv3.kernel',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO trial_params VALUES(24,2,'conv3.stride',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO trial_params VALUES(25,2,'conv4.filters',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO trial_params VALUES(26,2,'conv4.kernel',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO trial_params VALUES(27,2,'conv4.stride',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO trial_params VALUES(28,2,'conv5.filters',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO trial_params VALUES(29,2,'conv5.kernel',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO trial_params VALUES(30,2,'conv5.stride',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO trial_params VALUES(31,3,'conv1.filters',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO trial_params VALUES(32,3,'conv1.kernel',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO trial_params VALUES(33,3,'conv1.stride',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO trial_params VALUES(34,3,'conv2.filters',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO trial_params VALUES(35,3,'conv2.kernel',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO trial_params VALUES(36,3,'conv2.stride',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO trial_params VALUES(37,3,'conv3.filters',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO trial_params VALUES(38,3,'conv3.kernel',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO trial_params VALUES(39,3,'conv3.stride',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO trial_params VALUES(40,3,'conv4.filters',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO trial_params VALUES(41,3,'conv4.kernel',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO trial_params VALUES(42,3,'conv4.stride',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO trial_params VALUES(43,3,'conv5.filters',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO trial_params VALUES(44,3,'conv5.kernel',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO trial_params VALUES(45,3,'conv5.stride',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO trial_params VALUES(46,4,'conv1.filters',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO trial_params VALUES(47,4,'conv1.kernel',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO trial_params VALUES(48,4,'conv1.stride',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO trial_params VALUES(49,4,'conv2.filters',3.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO trial_params VALUES(50,4,'conv2.kernel',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO trial_params VALUES(51,4,'conv2.stride',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO trial_params VALUES(52,4,'conv3.filters',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO trial_params VALUES(53,4,'conv3.kernel',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO trial_params VALUES(54,4,'conv3.stride',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO trial_params VALUES(55,4,'conv4.filters',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO trial_params VALUES(56,4,'conv4.kernel',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO trial_params VALUES(57,4,'conv4.stride',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO trial_params VALUES(58,4,'conv5.filters',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO trial_params VALUES(59,4,'conv5.kernel',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO trial_params VALUES(60,4,'conv5.stride',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO trial_params VALUES(61,5,'conv1.filters',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO trial_params VALUES(62,5,'conv1.kernel',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO trial_params VALUES(63,5,'conv1.stride',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO trial_params VALUES(64,5,'conv2.filters',3.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO trial_params VALUES(65,5,'conv2.kernel',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO trial_params VALUES(66,5,'conv2.stride',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO trial_params VALUES(67,5,'conv3.filters',3.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO trial_params VALUES(68,5,'conv3.kernel',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO trial_params VALUES(69,5,'conv3.stride',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO trial_params VALUES(70,5,'conv4.filters',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO trial_params VALUES(71,5,'conv4.kernel',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO trial_params VALUES(72,5,'conv4.stride',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO trial_params VALUES(73,5,'conv5.filters',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO trial_params VALUES(74,5,'conv5.kernel',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO trial_params VALUES(75,5,'conv5.stride',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
CREATE TABLE trial_values (
	trial_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	value FLOAT, 
	value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_value_id), 
	UNIQUE (trial_id, objective), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO trial_values VALUES(1,1,0,0.25,'FINITE');
INSERT INTO trial_values VALUES(2,2,0,0.10000000000000000555,'FINITE');
INSERT INTO trial_values VALUES(3,3,0,0.34999999999999997779,'FINITE');
CREATE TABLE trial_intermediate_values (
	trial_intermediate_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	intermediate_value FLOAT, 
	intermediate_value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_intermediate_value_id), 
	UNIQUE (trial_id, step), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO trial_intermediate_values VALUES(1,1,1,0.25,'FINITE');
INSERT INTO trial_intermediate_values VALUES(2,2,1,0.10000000000000000555,'FINITE');
INSERT INTO trial_intermediate_values VALUES(3,3,1,0.34999999999999997779,'FINITE');
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (trial_heartbeat_id), 
	UNIQUE (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO alembic_version VALUES('v3.2.0.a');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
CREATE INDEX ix_trials_study_id ON trials (study_id);
COMMIT;
